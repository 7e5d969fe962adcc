// The doctor's findings about hosts made of files, and its reports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

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
  Finding limit(std::string_view id, const ProcessLimits& limits = {}) {
    return find(check_limits(host_, limits), id);
  }
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
  std::filesystem::create_directories(root_ + "/sys/kernel/mm");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
  EXPECT_THAT(memory("transparent-huge-pages").cure, IsEmpty());
  file(file_name, "always madvise [never]\n");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
  EXPECT_THAT(memory("transparent-huge-pages").cure, HasSubstr("madvise"));
  file(file_name, "always [madvise] never\n");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kGood);
  file(file_name, "]broken[");
  EXPECT_EQ(memory("transparent-huge-pages").state, State::kLimited);
}

TEST_F(Doctor, ReservedHugePages) {
  std::filesystem::create_directories(root_ + "/sys/kernel/mm");
  EXPECT_EQ(memory("reserved-huge-pages").state, State::kMissing);
  std::filesystem::create_directories(root_ + "/sys/kernel/mm/hugepages");
  EXPECT_THAT(memory("reserved-huge-pages").says, HasSubstr("no memory"));
  file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
  file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n");
  EXPECT_THAT(memory("reserved-huge-pages").says, HasSubstr("16 MiB are reserved as huge pages, 6 MiB"));
}

TEST_F(Doctor, SamePageMerging) {
  std::filesystem::create_directories(root_ + "/sys/kernel/mm");
  EXPECT_EQ(memory("ksm").state, State::kMissing);
  file("/sys/kernel/mm/ksm/run", "0\n");
  EXPECT_EQ(memory("ksm").state, State::kLimited);
  EXPECT_THAT(memory("ksm").cure, HasSubstr("/sys/kernel/mm/ksm/run"));
  file("/sys/kernel/mm/ksm/run", "1\n");
  file("/sys/kernel/mm/ksm/pages_sharing", "2560\n");
  EXPECT_EQ(memory("ksm").state, State::kGood);
  EXPECT_THAT(memory("ksm").says, HasSubstr("10 MiB"));
}

// Nothing is said to be missing that cannot be looked at.
TEST_F(Doctor, WhatIsNotVisibleIsUnknown) {
  for (const char* id : {"transparent-huge-pages", "reserved-huge-pages", "ksm", "memory-limit"}) {
    EXPECT_EQ(memory(id).state, State::kUnknown) << id;
    EXPECT_THAT(memory(id).says, HasSubstr("is not mounted")) << id;
    EXPECT_THAT(memory(id).cure, HasSubstr("container")) << id;
  }
  for (const char* id : {"max-map-count", "threads"}) {
    EXPECT_EQ(limit(id).state, State::kUnknown) << id;
    EXPECT_THAT(limit(id).says, HasSubstr("is not mounted")) << id;
  }
  EXPECT_EQ(network("bridge").state, State::kUnknown);
  std::filesystem::create_directories(root_ + "/sys/kernel");  // and a container's mask over the rest
  EXPECT_THAT(memory("ksm").says, HasSubstr("/sys/kernel/mm is hidden"));
}

TEST_F(Doctor, MapCount) {
  file("/proc/sys/vm/max_map_count", "65530\n");
  EXPECT_EQ(limit("max-map-count").state, State::kGood);
  file("/proc/sys/vm/max_map_count", "1024\n");
  EXPECT_EQ(limit("max-map-count").state, State::kLimited);
  EXPECT_THAT(limit("max-map-count").cure, HasSubstr("vm.max_map_count=65530"));
}

TEST_F(Doctor, LockedMemory) {
  EXPECT_EQ(limit("memlock").state, State::kGood);
  const Limit low{.now = 64 << 10, .most = 64 << 10};
  EXPECT_THAT(limit("memlock", {.locked_memory = low}).says, HasSubstr("64 KiB"));
  EXPECT_EQ(limit("memlock", {.locked_memory = low}).state, State::kLimited);
  EXPECT_EQ(limit("memlock", {.locked_memory = low, .may_lock_more = true}).state, State::kGood);
}

TEST_F(Doctor, OpenFiles) {
  EXPECT_EQ(limit("open-files", {.files = {.now = 1024, .most = 4096}}).state, State::kGood);
  const Finding soft = limit("open-files", {.files = {.now = 256, .most = RLIM_INFINITY}});
  EXPECT_EQ(soft.state, State::kLimited);
  EXPECT_EQ(soft.cure, "ulimit -n 4096");
  // A shell cannot raise the hard one.
  EXPECT_THAT(limit("open-files", {.files = {.now = 1024, .most = 1024}}).cure, HasSubstr("limits.d"));
}

TEST_F(Doctor, AddressSpace) {
  EXPECT_EQ(limit("address-space").state, State::kGood);
  const Finding low = limit("address-space", {.address_space = {.now = 1 << 30}});
  EXPECT_EQ(low.state, State::kLimited);
  EXPECT_EQ(low.cure, "ulimit -v unlimited");
}

TEST_F(Doctor, Threads) {
  file("/proc/self/cgroup", "0::/a/b\n");
  file("/sys/fs/cgroup/cgroup.procs");
  EXPECT_EQ(limit("threads").state, State::kGood);
  const Limit few{.now = 100, .most = 100};
  EXPECT_EQ(limit("threads", {.processes = few}).state, State::kLimited);
  EXPECT_THAT(limit("threads", {.processes = few}).cure, HasSubstr("limits.d"));
  EXPECT_EQ(limit("threads", {.processes = {.now = 100}}).cure, "ulimit -u 4096");
  EXPECT_EQ(limit("threads", {.processes = few, .may_start_more = true}).state, State::kGood);
  EXPECT_EQ(limit("threads", {.processes = {.now = 5000, .most = 5000}}).state, State::kGood);
}

// Of the group and of those above it, what leaves least.
TEST_F(Doctor, ThreadsOfAControlGroup) {
  file("/proc/self/cgroup", "0::/a/b\n");
  file("/sys/fs/cgroup/a/pids.max", "1000\n");
  file("/sys/fs/cgroup/a/pids.current", "900\n");
  file("/sys/fs/cgroup/a/b/pids.max", "max\n");
  EXPECT_EQ(limit("threads").state, State::kLimited);
  EXPECT_THAT(limit("threads").says, HasSubstr("1000 threads, and has 900 now"));
  EXPECT_THAT(limit("threads").cure, HasSubstr("/sys/fs/cgroup/a/pids.max"));
  file("/sys/fs/cgroup/a/b/pids.max", "50\n");
  file("/sys/fs/cgroup/a/b/pids.current", "10\n");
  EXPECT_THAT(limit("threads").cure, HasSubstr("/sys/fs/cgroup/a/b/pids.max"));
  file("/sys/fs/cgroup/a/b/pids.max", "max\n");
  file("/sys/fs/cgroup/a/pids.current", "10\n");
  EXPECT_EQ(limit("threads").state, State::kGood);
}

TEST_F(Doctor, MemoryOfAControlGroup) {
  file("/proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");
  file("/proc/self/cgroup", "4:memory:/deep/in/the/host\n3:cpu,cpuacct:/\nbroken\n0::/\n");
  file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(memory("memory-limit").state, State::kGood);
  // A container's mount begins at its own group.
  file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
  file("/sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n");
  EXPECT_EQ(memory("memory-limit").state, State::kLimited);
  EXPECT_THAT(memory("memory-limit").says, HasSubstr("512 MiB, 100 MiB of it are in use"));
  EXPECT_THAT(memory("memory-limit").cure, HasSubstr("memory.limit_in_bytes"));
  file("/proc/meminfo", "MemTotal: 262144 kB\n");
  EXPECT_EQ(memory("memory-limit").state, State::kGood);  // the host has less
}

TEST_F(Doctor, Bridges) {
  std::filesystem::create_directories(root_ + "/sys/class/net");
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
  file("/sys/class/misc/vhost-net/dev");  // the kernel has it, this container has not
  EXPECT_EQ(network("vhost-net").cure, "give it to the container (--device /dev/vhost-net)");
}

TEST_F(Doctor, Reports) {
  const Section sections[] = {{"First",
                               {{.id = "one", .state = State::kGood, .says = "it is \"good\"", .cure = ""},
                                {.id = "two",
                                 .state = State::kMissing,
                                 .says = "it is not",
                                 .cure = "make it",
                                 .figures = {{"count", "3"}}}}},
                              {"Second",
                               {{.id = "three", .state = State::kLimited, .says = "so so", .cure = ""},
                                {.id = "four", .state = State::kUnknown, .says = "who knows", .cure = ""}}}};
  const auto report = nlohmann::json::parse(as_json(sections));
  EXPECT_EQ(report["version"], 1);
  ASSERT_EQ(report["findings"].size(), 4u);
  EXPECT_EQ(report["findings"][0]["state"], "good");
  EXPECT_EQ(report["findings"][0]["says"], "it is \"good\"");
  EXPECT_FALSE(report["findings"][0].contains("cure"));
  EXPECT_EQ(report["findings"][1]["count"], 3);
  EXPECT_EQ(report["findings"][1]["cure"], "make it");
  EXPECT_EQ(report["findings"][2]["section"], "Second");
  EXPECT_EQ(report["findings"][3]["state"], "unknown");
  const std::string text = as_text(sections);
  EXPECT_THAT(text, HasSubstr("First\n  ok       one"));
  EXPECT_THAT(text, HasSubstr("-> make it\n\nSecond\n  limited  three"));
}

// Of the process itself: root inside a user namespace that is somebody else outside has a limit of processes.
TEST_F(Doctor, RootOfAContainerHasLimits) {
  file("/proc/self/uid_map", "         0       1000          1\n");
  EXPECT_FALSE(ProcessLimits::current(host_).may_start_more);
  file("/proc/self/uid_map", "         0          0 4294967295\n");
  EXPECT_EQ(ProcessLimits::current(host_).may_start_more, geteuid() == 0);
}

// Whatever this host is: each finding has an id of its own and says something.
TEST(DoctorHere, EveryFindingSpeaks) {
  const Host host;
  std::vector<std::string> ids;
  for (const Section& section :
       {check_engines(host), check_memory(host), check_limits(host, ProcessLimits::current(host)),
        check_storage(host), check_networks(host), check_sandbox(host)})
    for (const Finding& finding : section.findings) {
      EXPECT_THAT(finding.says, ::testing::Not(IsEmpty())) << finding.id;
      ids.push_back(finding.id);
    }
  std::ranges::sort(ids);
  EXPECT_EQ(std::ranges::adjacent_find(ids), ids.end());
}

}  // namespace
}  // namespace ostler::doctor
