// What settings of drives, objects and threads do to requests.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <thread>

#include "block/filters/throttle.h"
#include "disks_fixture.h"

namespace ostler::machine {
namespace {

class DiskSettings : public test::DisksTest {
 protected:
  // The flags with which this process has `name` open; -1: it has not.
  int flags_of(const std::string& name) {
    for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      if (std::filesystem::read_symlink(each.path(), error) != path(name)) continue;
      return fcntl(std::stoi(each.path().filename()), F_GETFL);
    }
    return -1;
  }
  uint64_t sent_to_ring() {
    return disks->thread().wait_for([](block::IoContext* context) -> block::Task<uint64_t> {
      co_return context->sent_to_ring();
    }(&disks->thread().context()));
  }
  int flush(Backend disk) {
    std::promise<int> result;
    disk->flush([&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  int64_t blocks_of(const std::string& name) {
    struct stat status;
    return stat(path(name).c_str(), &status) == 0 ? status.st_blocks : -1;
  }
};

TEST_F(DiskSettings, CacheModesReachTheFile) {
  qemu_img("create -q -f qcow2 " + path("a.qcow2") + " 1M");
  for (const auto& [mode, direct, through] :
       {std::tuple{"none", true, false}, std::tuple{"directsync", true, true},
        std::tuple{"writeback", false, false}, std::tuple{"writethrough", false, true}}) {
    open({"-drive", std::string("if=none,id=a,file=@/a.qcow2,cache=") + mode});
    const auto disk = take("a");
    EXPECT_EQ((flags_of("a.qcow2") & O_DIRECT) != 0, direct) << mode;
    EXPECT_EQ(disk->writes_through(), through) << mode;
    EXPECT_EQ(write(disk, 1024, std::string(1024, mode[0])), 0);
    EXPECT_EQ(read(disk, 1024, 1024), std::string(1024, mode[0]));
    disks.reset();
  }
  qemu_img("check -q " + path("a.qcow2"));
}

TEST_F(DiskSettings, AioThreadsLeavesTheRingAlone) {
  make_file("a.img", std::string(65536, 'a'));
  open({"-drive", "if=none,id=a,file=@/a.img,format=raw,aio=threads"});
  EXPECT_EQ(flush(take("a")), 0);
  EXPECT_EQ(sent_to_ring(), 0u);
  open({"-drive", "if=none,id=a,file=@/a.img,format=raw,aio=io_uring,file.locking=off"});
  EXPECT_EQ(flush(take("a")), 0);
  const uint64_t sent = sent_to_ring();
  EXPECT_EQ(sent > 0, disks->thread().context().has_ring());
}

TEST_F(DiskSettings, AioOfAFileNode) {
  make_file("a.img", std::string(65536, 'a'));
  EXPECT_NE(try_open({"-blockdev", "file,node-name=a,filename=@/a.img,aio=native"}).find("cache.direct=on"),
            std::string::npos);
  open({"-blockdev", "file,node-name=a,filename=@/a.img,aio=threads"});
  EXPECT_EQ(flush(take("a")), 0);
  EXPECT_EQ(sent_to_ring(), 0u);
}

TEST_F(DiskSettings, DetectedZerosTakeNoSpace) {
  make_file("a.img", std::string(1 << 20, 'a'));
  open({"-drive", "if=none,id=a,file=@/a.img,format=raw,detect-zeroes=unmap,discard=unmap"});
  const auto disk = take("a");
  const int64_t before = blocks_of("a.img");
  EXPECT_EQ(write(disk, 65536, std::string(524288, '\0')), 0);
  EXPECT_EQ(read(disk, 65536, 512), std::string(512, '\0'));
  EXPECT_LE(blocks_of("a.img"), before - 900);
  EXPECT_NE(try_open({"-drive", "if=none,id=a,file=@/a.img,format=raw,detect-zeroes=unmap,discard=ignore"})
                .find("needs discard=unmap"),
            std::string::npos);
}

TEST_F(DiskSettings, DetectedZerosAllocateNothingInAnImage) {
  qemu_img("create -q -f qcow2 " + path("a.qcow2") + " 8M");
  open({"-drive", "if=none,id=a,file=@/a.qcow2,detect-zeroes=on"});
  EXPECT_EQ(write(take("a"), 0, std::string(4 << 20, '\0')), 0);
  disks.reset();
  EXPECT_LT(std::filesystem::file_size(path("a.qcow2")), 1u << 20);
}

TEST_F(DiskSettings, DisksShareTheLimitsOfAGroup) {
  open({"-object", "throttle-group,id=g,x-iops-total=1000", "-drive",
        "if=none,id=a,driver=null-co,throttling.group=g", "-drive", "if=none,id=b,driver=null-co,group=g",
        "-drive", "if=none,id=c,driver=null-co,iops=50", "-blockdev",
        "throttle,node-name=d,throttle-group=g,file.driver=null-co"});
  std::set<block::ThrottleGroup*> groups;
  for (const char* name : {"a", "b", "c", "d"}) {
    auto* const throttle = dynamic_cast<block::ThrottleNode*>(node_of(take(name)).get());
    ASSERT_NE(throttle, nullptr) << name;
    groups.insert(&throttle->group());
  }
  EXPECT_EQ(groups.size(), 2u);  // g, and c's own
  // A thousand in a second, of which a tenth of a second's worth is let go at once.
  block::ThrottleGroup& shared = *block::ThrottleGroup::get("g");
  uint64_t start = 0;
  const uint64_t now = block::IoContext::now();
  for (int i = 0; i < 600; ++i) start = shared.book(i % 2 != 0, 4096);
  EXPECT_GT(start, now + 400'000'000);
}

TEST_F(DiskSettings, LimitsThatContradictAreRefused) {
  EXPECT_NE(try_open({"-drive", "if=none,id=c,driver=null-co,iops=50,iops_rd=5"}).find("excludes"),
            std::string::npos);
  EXPECT_NE(try_open({"-object", "throttle-group,id=g,limits.iops-totl=5"}).find("iops-total"),
            std::string::npos);
}

TEST_F(DiskSettings, AGroupOfLimitsThatNobodyMakesIsRefused) {
  const auto refused = [&](std::vector<std::string> options, const std::string& option,
                           const std::string& cure = "-object throttle-group,id=g,") {
    const std::string error = try_open(std::move(options));
    EXPECT_NE(error.find(option + ": there is no throttle group 'g'"), std::string::npos) << error;
    EXPECT_NE(error.find(cure), std::string::npos) << error;
  };
  // The image tool says the same of such a node, and has no such object.
  refused({"-blockdev", "throttle,node-name=d,throttle-group=g,file.driver=null-co"}, "throttle-group",
          "; limits.iops-total=N beside it makes one");
  refused({"-drive", "if=none,id=a,driver=null-co,group=g"}, "throttling.group");
  refused({"-object", "throttle-group,id=gg,x-iops-total=5", "-drive",
           "if=none,id=a,driver=null-co,throttling.group=g"},
          "throttling.group");
}

TEST_F(DiskSettings, ADriveMayNameTheGroupOfALaterOne) {
  open({"-drive", "if=none,id=a,driver=null-co,group=g", "-drive",
        "if=none,id=b,driver=null-co,group=g,iops=50", "-drive", "if=none,id=c,driver=null-co,group=d",
        "-drive", "if=none,id=d,driver=null-co,iops=50"});
  const auto group = [&](const std::string& name) {
    auto* const throttle = dynamic_cast<block::ThrottleNode*>(node_of(take(name)).get());
    return throttle == nullptr ? nullptr : &throttle->group();
  };
  const auto *a = group("a"), *b = group("b"), *c = group("c"), *d = group("d");
  EXPECT_EQ(a, b);
  EXPECT_EQ(c, d);
  EXPECT_NE(a, c);
  EXPECT_NE(a, nullptr);
}

TEST_F(DiskSettings, ASecretOpensAnEncryptedImage) {
  make_file("key", "open sesame");
  open({"-object", "secret,id=s,file=@/key"});
  const nlohmann::json options = {{"size", 1 << 20}, {"key-secret", "s"}, {"iter-time", 1}};
  ASSERT_TRUE(
      disks->thread().wait_for(disks->opener().create(path("a.luks"), "luks", options, {.writable = true})));
  disks.reset();
  open(
      {"-object", "secret,id=s,file=@/key", "-drive", "if=none,id=a,file=@/a.luks,format=luks,key-secret=s"});
  const auto disk = take("a");
  EXPECT_EQ(write(disk, 0, std::string(512, 'x')), 0);
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'x'));
  disks.reset();
  EXPECT_NE(try_open({"-drive", "if=none,id=a,file=@/a.luks,format=luks,key-secret=s"}).find("secret 's'"),
            std::string::npos);
}

TEST_F(DiskSettings, ASecretEncryptedWithAnother) {
  // By `printf "letmein" | openssl enc -aes-256-cbc -a -K $KEY -iv $IV`, where the key is 32 bytes 'k' and
  // the vector 16 bytes 'i'.
  const std::string master = "secret,id=m,data=" + std::string(32, 'k');
  const std::string iv = "iv=aWlpaWlpaWlpaWlpaWlpaQ==";
  open({"-object", master, "-object",
        "secret,id=s,keyid=m,format=base64,data=el5Ej1ROV0Rd+o5FvQy/Zg==," + iv});
  EXPECT_EQ(*disks->opener().secret("s", "secret"), "letmein");
  EXPECT_NE(try_open({"-object", master, "-object", "secret,id=s,keyid=m,data=0123456789abcdef," + iv})
                .find("another key"),
            std::string::npos);
  EXPECT_NE(try_open({"-object", master, "-object", "secret,id=s,keyid=m,data=x"}).find("'iv'"),
            std::string::npos);
}

TEST_F(DiskSettings, QueuesRunOnTheirOwnThreads) {
  open({"-object", "iothread,id=io0", "-object", "iothread,id=io1", "-drive",
        "if=none,id=a,driver=null-co,latency-ns=1000"});
  const auto queues = take({.name = "a",
                            .user = "-device test",
                            .share_writes = false,
                            .write_error = {},
                            .read_error = {},
                            .iothreads = {"io0", "io1", "io0"}});
  std::vector<std::thread::id> threads;
  for (const Backend queue : queues) {
    std::promise<std::thread::id> where;
    char byte[512];
    queue->read(0, {{byte, sizeof byte}}, [&](int) { where.set_value(std::this_thread::get_id()); });
    threads.push_back(where.get_future().get());
  }
  EXPECT_NE(threads[0], threads[1]);
  EXPECT_EQ(threads[0], threads[2]);
  EXPECT_NE(threads[0], std::this_thread::get_id());
  disks.reset();
  open({"-drive", "if=none,id=a,driver=null-co", "-object", "iothread,id=io0"});
  EXPECT_EQ(take_error({.name = "a",
                        .user = "-device b",
                        .share_writes = false,
                        .write_error = {},
                        .read_error = {},
                        .iothreads = {"io"}}),
            "-device b: there is no iothread 'io'; did you mean 'io0'?; -object iothread,id=io makes it");
}

}  // namespace
}  // namespace ostler::machine
