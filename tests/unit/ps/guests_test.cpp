// Guests of a host made of files.
#include "ps/guests.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace ostler::ps {
namespace {

class Guests : public ::testing::Test {
 protected:
  ~Guests() override { std::filesystem::remove_all(root_); }

  void file(const std::string& name, const std::string& content) {
    const std::filesystem::path path = root_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }
  // `arguments` joined by '|'.
  void process(int pid, const std::string& comm, std::string arguments, int vcpus) {
    std::replace(arguments.begin(), arguments.end(), '|', '\0');
    const std::string folder = std::to_string(pid);
    file(folder + "/comm", comm + "\n");
    file(folder + "/cmdline", arguments + '\0');
    file(folder + "/task/1/comm", comm + "\n");
    for (int i = 0; i < vcpus; ++i)
      file(folder + "/task/" + std::to_string(10 + i) + "/comm", "vcpu " + std::to_string(i) + "\n");
    const auto ticks = static_cast<unsigned long>(sysconf(_SC_CLK_TCK));
    file(folder + "/stat", std::to_string(pid) + " (a b) c) S 1 2 3 4 5 6 7 8 9 10 " +
                               std::to_string(90 * ticks) + " " + std::to_string(3600 * ticks) + " 0\n");
  }

  const std::string root_ = ::testing::TempDir() +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name() +
                            std::to_string(getpid());
};

TEST_F(Guests, AreFoundByProgramAndVcpus) {
  process(30, "ostler-system-x", "/usr/bin/ostler-system-x86_64|-name|guest=web,debug-threads=on|-m|1G", 2);
  process(7, "ostler", "ostler|run|--name=db|disk.qcow2", 1);
  process(8, "ostler", "ostler|run|disk.qcow2", 1);
  process(9, "ostler", "ostler|doctor", 0);
  process(10, "ostler", "ostler|run|--help", 0);
  process(11, "vim", "vim|ostler|run", 1);
  file("self/comm", "ostler\n");
  const auto found = list_guests(root_);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].pid, 7);
  EXPECT_EQ(found[0].name, "db");
  EXPECT_EQ(found[1].name, "");
  EXPECT_EQ(found[2].name, "web");
  EXPECT_EQ(found[2].vcpus, 2u);
  EXPECT_EQ(found[2].cpu_seconds, 3690u);
}

TEST_F(Guests, MemoryIsToldByItsNameAmongTheMappings) {
  process(5, "ostler", "ostler|run|x", 1);
  file("5/smaps",
       "55e0-55e1 r-xp 00000000 fe:00 12 /usr/bin/ostler: odd\nSize:  200 kB\nRss:  100 kB\nVmFlags: rd ex\n"
       "7f00-7f40 rw-p 00000000 00:00 0 [anon:ostler-ram-ram]\nSize: 4096 kB\nRss: 1024 kB\nVmFlags: rd wr "
       "mg\n"
       "7f50-7f60 rw-s 00000000 00:01 9 /memfd:ostler-ram-far (deleted)\nSize: 2048 kB\nRss: 2048 "
       "kB\nVmFlags: rd wr\n"
       "7f70-7f90 rw-p 00000000 00:00 0 \nSize: 1024 kB\nRss: 4 kB\nVmFlags: rd wr dd hg mg\n"
       "7fa0-7fb0 rw-p 00000000 00:00 0 \nSize: 512 kB\nRss: 8 kB\nVmFlags: rd wr dd\n");
  file("5/ksm_merging_pages", "3\n");
  const auto found = list_guests(root_);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].memory, 7168u * 1024);
  EXPECT_EQ(found[0].guest_resident, 3076u * 1024);
  EXPECT_EQ(found[0].overhead, 108u * 1024);
  EXPECT_EQ(found[0].merged, 3u * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
}

TEST_F(Guests, WhatTheHostDoesNotTellIsLeftOut) {
  process(5, "ostler", "ostler|run|x", 1);
  const auto found = list_guests(root_);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].merged);
  EXPECT_EQ(found[0].memory, 0u);
  EXPECT_TRUE(list_guests(root_ + "/nowhere").empty());
}

TEST_F(Guests, ReportsForPeopleAndPrograms) {
  const std::vector<Guest> guests = {{.pid = 5,
                                      .name = "web",
                                      .vcpus = 2,
                                      .cpu_seconds = 3690,
                                      .memory = uint64_t{20} << 30,
                                      .guest_resident = 3u << 20,
                                      .overhead = 1u << 20,
                                      .merged = 8192}};
  EXPECT_EQ(
      as_text(guests),
      "    PID  NAME                  VCPUS   CPU TIME       MEMORY     RESIDENT     OVERHEAD       MERGED\n"
      "      5  web                       2    1:01:30     20.0 GiB      3.0 MiB      1.0 MiB      0.0 "
      "MiB\n");
  EXPECT_EQ(as_text({}), "no guest runs here that you may look at\n");
  const auto json = nlohmann::json::parse(as_json(guests));
  EXPECT_EQ(json[0]["memory"], uint64_t{20} << 30);
  EXPECT_EQ(json[0]["merged"], 8192);
  EXPECT_EQ(as_json({}), "[]\n");
}

}  // namespace
}  // namespace ostler::ps
