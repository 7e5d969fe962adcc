// The doctor's findings about hosts made of files, and its reports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "doctor/checks.h"
#include "doctor/report.h"

namespace ostler::doctor {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Doctor : public ::testing::Test {
 protected:
  Doctor() { std::filesystem::create_directories(root_); }
  ~Doctor() override { std::filesystem::remove_all(root_); }

  void file(const std::string& name, const std::string& content = "") {
    std::filesystem::create_directories(std::filesystem::path(root_ + name).parent_path());
    std::ofstream(root_ + name) << content;
  }
  static Finding find(const Section& section, std::string_view id) {
    const auto found = std::ranges::find(section.findings, id, &Finding::id);
    EXPECT_NE(found, section.findings.end()) << id;
    return found == section.findings.end() ? Finding{} : *found;
  }
  Finding memory(std::string_view id) { return find(check_memory(host_), id); }
  Finding network(std::string_view id) { return find(check_networks(host_), id); }

  const std::string root_ = ::testing::TempDir() +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name() +
                            std::to_string(getpid());
  const Host host_{root_};
};

TEST_F(Doctor, NoKvm) {
  const Finding kvm = find(check_engines(host_), "kvm");
  EXPECT_EQ(kvm.state, State::kMissing);
  EXPECT_THAT(kvm.says, HasSubstr("is not there"));
  EXPECT_THAT(kvm.cure, HasSubstr("modprobe"));
}

TEST_F(Doctor, TheTranslatorIsAlwaysThere) {
  EXPECT_EQ(find(check_engines(host_), "translator").state, State::kGood);
}

TEST_F(Doctor, TransparentHugePages) {
  const char* const file_name = "/sys/kernel/mm/transparent_hugepage/enabled";
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
  file(file_name, "always madvise [never]\n");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
  EXPECT_THAT(memory("transparent-huge-pages").cure, HasSubstr("madvise"));
  file(file_name, "always [madvise] never\n");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kGood);
  file(file_name, "]broken[");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
}

TEST_F(Doctor, ReservedHugePages) {
  EXPECT_THAT(memory("reserved-huge-pages").says, HasSubstr("no memory"));
  file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
  file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n");
  EXPECT_THAT(memory("reserved-huge-pages").says, HasSubstr("16 MiB are reserved as huge pages, 6 MiB"));
}

TEST_F(Doctor, SamePageMerging) {
  EXPECT_EQ(memory("ksm").state, State::kMissing);
  file("/sys/kernel/mm/ksm/run", "0\n");
  EXPECT_EQ(memory("ksm").state, State::kLimited);
  EXPECT_THAT(memory("ksm").cure, HasSubstr("/sys/kernel/mm/ksm/run"));
  file("/sys/kernel/mm/ksm/run", "1\n");
  file("/sys/kernel/mm/ksm/pages_sharing", "2560\n");
  EXPECT_EQ(memory("ksm").state, State::kGood);
  EXPECT_THAT(memory("ksm").says, HasSubstr("10 MiB"));
}

TEST_F(Doctor, MapCount) {
  file("/proc/sys/vm/max_map_count", "65530\n");
  EXPECT_EQ(memory("max-map-count").state, State::kGood);
  file("/proc/sys/vm/max_map_count", "1024\n");
  EXPECT_EQ(memory("max-map-count").state, State::kLimited);
  EXPECT_THAT(memory("max-map-count").cure, HasSubstr("vm.max_map_count=65530"));
}

TEST_F(Doctor, Bridges) {
  EXPECT_EQ(network("bridge").state, State::kLimited);
  file("/sys/class/net/eth0/address");
  EXPECT_EQ(network("bridge").state, State::kLimited);
  std::filesystem::create_directories(root_ + "/sys/class/net/br7/bridge");
  EXPECT_EQ(network("bridge").state, State::kGood);
  EXPECT_THAT(network("bridge").says, HasSubstr("br7"));
}

TEST_F(Doctor, DevicesThatAreMissingAndThere) {
  EXPECT_EQ(network("tap").state, State::kMissing);
  EXPECT_THAT(network("tap").cure, HasSubstr("modprobe tun"));
  file("/dev/net/tun");
  EXPECT_EQ(network("tap").state, State::kGood);
  EXPECT_THAT(network("vhost-net").cure, HasSubstr("vhost_net"));
}

TEST_F(Doctor, Reports) {
  const Section sections[] = {
      {"First",
       {{.id = "one", .state = State::kGood, .says = "it is \"good\"", .cure = ""},
        {.id = "two",
         .state = State::kMissing,
         .says = "it is not",
         .cure = "make it",
         .figures = {{"count", "3"}}}}},
      {"Second", {{.id = "three", .state = State::kLimited, .says = "so so", .cure = ""}}}};
  const auto report = nlohmann::json::parse(as_json(sections));
  EXPECT_EQ(report["version"], 1);
  ASSERT_EQ(report["findings"].size(), 3u);
  EXPECT_EQ(report["findings"][0]["state"], "good");
  EXPECT_EQ(report["findings"][0]["says"], "it is \"good\"");
  EXPECT_FALSE(report["findings"][0].contains("cure"));
  EXPECT_EQ(report["findings"][1]["count"], 3);
  EXPECT_EQ(report["findings"][1]["cure"], "make it");
  EXPECT_EQ(report["findings"][2]["section"], "Second");
  const std::string text = as_text(sections);
  EXPECT_THAT(text, HasSubstr("First\n  ok       one"));
  EXPECT_THAT(text, HasSubstr("-> make it\n\nSecond\n  limited  three"));
}

// Whatever this host is: each finding has an id of its own and says something.
TEST(DoctorHere, EveryFindingSpeaks) {
  const Host host;
  std::vector<std::string> ids;
  for (const Section& section : {check_engines(host), check_memory(host), check_storage(host),
                                 check_networks(host), check_sandbox(host)})
    for (const Finding& finding : section.findings) {
      EXPECT_THAT(finding.says, ::testing::Not(IsEmpty())) << finding.id;
      ids.push_back(finding.id);
    }
  std::ranges::sort(ids);
  EXPECT_EQ(std::ranges::adjacent_find(ids), ids.end());
}

}  // namespace
}  // namespace ostler::doctor
