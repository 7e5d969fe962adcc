#include "memory/host_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/bytes.h"
#include "fixtures.h"
#include "memory/missing_page.h"

namespace ostler::memory {
namespace {

constexpr uint64_t kMebibyte = 1u << 20;

// A folder of its own, removed with what is in it.
class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() : folder_(::testing::TempDir() + "ostler-memory-" + std::to_string(getpid())) {
    mkdir(folder_.c_str(), 0700);
  }
  ~HostMemoryTest() override {
    for (const std::string& name : files_) unlink(name.c_str());
    rmdir(folder_.c_str());
  }

  std::string file(const std::string& name, uint64_t bytes = 0) {
    files_.push_back(folder_ + "/" + name);
    if (bytes != 0) {
      std::ofstream(files_.back()).put('x');
      EXPECT_EQ(truncate(files_.back().c_str(), static_cast<off_t>(bytes)), 0);
    }
    return files_.back();
  }

  static HostMemory made(const RamOptions& options) {
    auto memory = HostMemory::create(options);
    EXPECT_TRUE(memory) << memory.error().message();
    return *std::move(memory);
  }
  static std::string error_of(const RamOptions& options) {
    auto memory = HostMemory::create(options);
    return memory ? "no error" : memory.error().message();
  }
  // Bytes that the process holds of it.
  static uint64_t resident(const HostMemory& memory) {
    std::vector<unsigned char> pages(memory.size() / 4096);
    EXPECT_EQ(mincore(memory.data(), memory.size(), pages.data()), 0);
    return 4096 *
           static_cast<uint64_t>(std::count_if(pages.begin(), pages.end(), [](auto p) { return p & 1; }));
  }

  // Bytes.
  static uint64_t more_than_the_host_has() {
    struct sysinfo info = {};
    EXPECT_EQ(sysinfo(&info), 0);
    return align_up((static_cast<uint64_t>(info.totalram) + info.totalswap) * info.mem_unit * 2, kMebibyte);
  }

  std::string folder_;
  std::vector<std::string> files_;
};

TEST_F(HostMemoryTest, AMemoryObjectIsSharedWithWhoeverMapsIt) {
  const HostMemory memory =
      made({.name = "ram", .size = 4 * kMebibyte, .backing = Backing::kMemfd, .share = true});
  ASSERT_GE(memory.fd(), 0);
  memory.data()[kMebibyte] = std::byte{7};
  char seen = 0;
  ASSERT_EQ(pread(memory.fd(), &seen, 1, kMebibyte), 1);
  EXPECT_EQ(seen, 7);
  EXPECT_EQ(ftruncate(memory.fd(), 0), -1) << "sealed: nobody takes memory away from under the guest";
  const HostMemory open =
      made({.name = "ram", .size = kMebibyte, .backing = Backing::kMemfd, .share = true, .seal = false});
  EXPECT_EQ(ftruncate(open.fd(), 2 * kMebibyte), 0);
}

TEST_F(HostMemoryTest, AFileKeepsWhatSharedMemoryHolds) {
  const std::string path = file("ram");
  made({.name = "ram", .size = kMebibyte, .backing = Backing::kFile, .path = path, .share = true}).data()[5] =
      std::byte{9};
  const HostMemory again =
      made({.name = "ram", .size = kMebibyte, .backing = Backing::kFile, .path = path, .share = false});
  EXPECT_EQ(again.data()[5], std::byte{9});
  again.data()[5] = std::byte{1};
  std::ifstream in(path);
  in.seekg(5);
  EXPECT_EQ(in.get(), 9) << "a private mapping leaves the file alone";
}

TEST_F(HostMemoryTest, AFolderGetsAFileThatNobodySees) {
  const HostMemory memory =
      made({.name = "ram", .size = kMebibyte, .backing = Backing::kFile, .path = folder_, .share = true});
  memory.data()[0] = std::byte{1};
  EXPECT_EQ(rmdir(folder_.c_str()), 0) << "the folder is empty";
}

TEST_F(HostMemoryTest, AnOffsetLeadsIntoTheFile) {
  const std::string path = file("ram", 3 * kMebibyte);
  const HostMemory memory = made({.name = "ram",
                                  .size = kMebibyte,
                                  .backing = Backing::kFile,
                                  .path = path,
                                  .offset = 2 * kMebibyte,
                                  .share = true});
  EXPECT_EQ(memory.file_offset(), 2 * kMebibyte);
  memory.data()[3] = std::byte{4};
  std::ifstream in(path);
  in.seekg(2 * kMebibyte + 3);
  EXPECT_EQ(in.get(), 4);
}

TEST_F(HostMemoryTest, RefusesWhatCannotBe) {
  const std::string small = file("small", kMebibyte);
  EXPECT_NE(error_of({.name = "m", .size = 2 * kMebibyte, .backing = Backing::kFile, .path = small})
                .find("has 1048576 bytes and 2097152 are wanted"),
            std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .backing = Backing::kFile, .path = "/nowhere/at/all"})
                .find("/nowhere/at/all"),
            std::string::npos);
  EXPECT_NE(
      error_of({.name = "m", .size = kMebibyte, .backing = Backing::kFile, .path = folder_, .offset = 5})
          .find("offset 5"),
      std::string::npos);
  EXPECT_NE(error_of({.name = "m",
                      .size = kMebibyte,
                      .backing = Backing::kFile,
                      .path = folder_,
                      .offset = ~uint64_t{0xfff}})
                .find("beyond the end"),
            std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = more_than_the_host_has()}).find("reserve=off"), std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .align = 12345}).find("power of two"),
            std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .policy = HostPolicy::kBind}).find("host-nodes"),
            std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .host_nodes = {0}}).find("policy"), std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .policy = HostPolicy::kBind, .host_nodes = {700}})
                .find("nodes 700"),
            std::string::npos);
  EXPECT_NE(error_of({.name = "m", .size = kMebibyte, .policy = HostPolicy::kBind, .host_nodes = {70000}})
                .find("no NUMA node 70000"),
            std::string::npos);
}

TEST_F(HostMemoryTest, MayBeMoreThanTheHostHasWhereThatIsMeant) {
  // The kernel gives so many addresses unless it was told never to overcommit (proc(5), overcommit_memory).
  int policy = 0;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> policy;
  const auto memory = HostMemory::create({.name = "m", .size = more_than_the_host_has(), .overcommit = true});
  EXPECT_EQ(static_cast<bool>(memory), policy != 2);
}

TEST_F(HostMemoryTest, AFileSystemWithoutRoomIsTold) {
  struct statfs kind {};
  ASSERT_EQ(statfs(folder_.c_str(), &kind), 0);
  const uint64_t free = static_cast<uint64_t>(kind.f_bavail) * static_cast<uint64_t>(kind.f_bsize);
  // Others may free some meanwhile.
  const RamOptions options{.name = "m",
                           .size = (2 * free + (uint64_t{16} << 30)) & ~uint64_t{kMebibyte - 1},
                           .backing = Backing::kFile,
                           .path = folder_,
                           .share = true};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(made(options).size(), options.size) << "the guest may never use all of it";
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("memory 'm': the file system of '" + folder_ + "' has room for"), std::string::npos)
      << told;
  EXPECT_NE(told.find("make room there, or name another folder"), std::string::npos) << told;
}

TEST_F(HostMemoryTest, AFileThatHasItsBlocksNeedsNoRoom) {
  const std::string path = file("whole");
  std::ofstream(path) << std::string(kMebibyte, 'x');
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(
      made({.name = "m", .size = kMebibyte, .backing = Backing::kFile, .path = path, .share = true}).size(),
      kMebibyte);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(HostMemoryTest, APageThatItsFileHasLostIsTold) {
  const std::string path = file("cut");
  const HostMemory memory =
      made({.name = "m", .size = kMebibyte, .backing = Backing::kFile, .path = path, .share = true});
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  const auto touch = [&] {
    explain_missing_pages();
    *static_cast<volatile std::byte*>(memory.data()) = std::byte{1};
  };
  EXPECT_EXIT(touch(), ::testing::KilledBySignal(SIGBUS),
              "its file .* was cut off, or its file system is full");
}

TEST_F(HostMemoryTest, HugePagesThatTheHostDoesNotHaveAreAnErrorAtOnce) {
  // No host has reserved a pebibyte of them, and none has pages of 8 MiB.
  const std::string none = error_of({.name = "m",
                                     .size = 8 * kMebibyte,
                                     .backing = Backing::kMemfd,
                                     .huge = true,
                                     .huge_size = 8 * kMebibyte});
  EXPECT_NE(none.find("no huge pages of 8192 KiB"), std::string::npos) << none;
}

TEST_F(HostMemoryTest, IsWhereItIsAskedToBe) {
  const HostMemory memory = made({.name = "m", .size = kMebibyte, .align = 64 * kMebibyte});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % (64 * kMebibyte), 0u);
}

TEST_F(HostMemoryTest, MemoryIsPlacedOnTheNodesOfAPolicy) {
  for (const HostPolicy policy : {HostPolicy::kPreferred, HostPolicy::kBind, HostPolicy::kInterleave}) {
    const HostMemory memory = made({.name = "m", .size = kMebibyte, .policy = policy, .host_nodes = {0}});
    memory.data()[0] = std::byte{1};
    // /proc/self/numa_maps: "address policy …"
    std::ifstream maps("/proc/self/numa_maps");
    char address[32];
    std::snprintf(address, sizeof address, "%lx ", reinterpret_cast<unsigned long>(memory.data()));
    std::string line, found;
    while (std::getline(maps, line))
      if (line.starts_with(address)) found = line;
    const char* word = policy == HostPolicy::kPreferred ? "prefer"
                       : policy == HostPolicy::kBind    ? "bind:0"
                                                        : "interleave:0";
    EXPECT_NE(found.find(word), std::string::npos) << found;
  }
}

TEST_F(HostMemoryTest, TellsTheKernelWhatToMergeAndToDump) {
  // "VmFlags: rd wr … dd mg": of one mapping in smaps.
  const auto has_flag = [](const HostMemory& memory, const std::string& flag) {
    std::ifstream maps("/proc/self/smaps");
    char address[32];
    std::snprintf(address, sizeof address, "%lx-", reinterpret_cast<unsigned long>(memory.data()));
    std::string line;
    bool ours = false;
    while (std::getline(maps, line)) {
      if (line.starts_with(address)) ours = true;
      if (ours && line.starts_with("VmFlags:"))
        return (line + " ").find(" " + flag + " ") != std::string::npos;
    }
    return false;
  };
  const bool has_ksm = access("/sys/kernel/mm/ksm", F_OK) == 0;
  for (const bool wanted : {false, true}) {
    const HostMemory memory = made({.name = "m", .size = kMebibyte, .merge = wanted, .dump = wanted});
    EXPECT_EQ(has_flag(memory, "mg"), wanted && has_ksm);
    EXPECT_EQ(has_flag(memory, "dd"), !wanted);
  }
}

TEST_F(HostMemoryTest, PopulateTakesAllOfItAndTellsHowFarItIs) {
  for (const Backing backing : {Backing::kAnonymous, Backing::kMemfd}) {
    const HostMemory memory = made({.name = "m", .size = 70 * kMebibyte, .backing = backing});
    uint64_t last = 0;
    auto done = memory.populate("m", 3, [&](uint64_t bytes) {
      EXPECT_GE(bytes, last);
      last = bytes;
    });
    ASSERT_TRUE(done) << done.error().message();
    EXPECT_EQ(last, memory.size());
    EXPECT_EQ(resident(memory), memory.size());
  }
}

TEST_F(HostMemoryTest, PopulateEndsWithAnErrorWhereTheHostHasNoMore) {
  // The kernel refuses a page that may not be written to with an error too.
  const HostMemory memory = made({.name = "guest", .size = 8 * kMebibyte});
  ASSERT_EQ(mprotect(memory.data() + 4 * kMebibyte, 4096, PROT_READ), 0);
  const auto done = memory.populate("guest", 2, {});
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("memory 'guest'"), std::string::npos);
  EXPECT_NE(done.error().message().find("8 MiB that prealloc asks for"), std::string::npos);
}

TEST_F(HostMemoryTest, DiscardGivesWholePagesBack) {
  for (const Backing backing : {Backing::kAnonymous, Backing::kMemfd}) {
    const HostMemory memory =
        made({.name = "m", .size = 8 * kMebibyte, .backing = backing, .share = backing == Backing::kMemfd});
    std::fill_n(memory.data(), memory.size(), std::byte{1});
    EXPECT_TRUE(memory.discard(100, 4 * kMebibyte));
    EXPECT_EQ(memory.data()[100], std::byte{1}) << "the rest of a page stays";
    EXPECT_EQ(memory.data()[4096], std::byte{0});
    EXPECT_EQ(memory.data()[4 * kMebibyte - 1], std::byte{0});
    EXPECT_EQ(memory.data()[4 * kMebibyte], std::byte{1});
    EXPECT_TRUE(memory.discard(4 * kMebibyte, 4 * kMebibyte));
    EXPECT_LE(resident(memory), 4 * 4096 + 4 * kMebibyte);
    EXPECT_FALSE(memory.discard(8 * kMebibyte, 4096));
    EXPECT_TRUE(memory.discard(8 * kMebibyte - 10, ~uint64_t{0}));
  }
}

TEST_F(HostMemoryTest, LocksOrTellsTheLimit) {
  const HostMemory memory = made({.name = "m", .size = 4 * kMebibyte});
  ASSERT_TRUE(memory.lock("m"));
  EXPECT_EQ(resident(memory), memory.size());
  // Ends by _exit(), as the search for leaks at a usual exit needs rights that are given up here.
  const auto with_a_limit = [] {
    // Root may lock beyond the limit; nobody does.
    const rlimit none{.rlim_cur = 0, .rlim_max = 0};
    setrlimit(RLIMIT_MEMLOCK, &none);
    if (geteuid() == 0 && seteuid(65534) != 0) _exit(2);
    const HostMemory other = made({.name = "m", .size = 4 * kMebibyte});
    const auto locked = other.lock("other");
    _exit(!locked && locked.error().message().find("ulimit -l") != std::string::npos ? 0 : 1);
  };
  EXPECT_EXIT(with_a_limit(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace ostler::memory
