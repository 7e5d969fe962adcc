// Disks that a machine gives to NBD clients, with qemu-img and nbdcopy as peers.
#include "machine/nbd_exports.h"

#include "disks_fixture.h"

namespace ostler::machine {
namespace {

class NbdExportsTest : public test::DisksTest {
 protected:
  void TearDown() override {
    nbd.reset();
    DisksTest::TearDown();
  }
  void serve(std::vector<std::string> words) {
    open(std::move(words));
    nbd = std::make_unique<NbdExports>(*disks);
    ASSERT_TRUE(nbd->start({.path = path("nbd.sock")}));
  }
  std::string uri(const std::string& name) const {
    return "'nbd+unix:///" + name + "?socket=" + path("nbd.sock") + "'";
  }
  static int status_of(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str());
  }
  std::string error_of(Result<void> done) { return done ? "" : done.error().message(); }
  std::unique_ptr<NbdExports> nbd;
};

TEST_F(NbdExportsTest, ClientsReadWhatADeviceWrites) {
  serve({"-drive", "if=none,id=d,driver=null-co,size=64k", "-drive",
         "if=none,id=e,file.driver=file,file.filename=" + make_file("e", std::string(65536, 'e'))});
  const auto disk = take("e");
  EXPECT_EQ(write(disk, 4096, std::string(512, 'w')), 0);
  ASSERT_TRUE(nbd->add({.id = "x", .node = "e", .name = "disk"}));
  ASSERT_EQ(status_of("nbdcopy " + uri("disk") + " " + path("copy")), 0);
  EXPECT_EQ(content_of("copy").substr(4000, 700),
            std::string(96, 'e') + std::string(512, 'w') + std::string(92, 'e'));
  EXPECT_NE(status_of("qemu-io -f raw -c 'write 0 512' " + uri("disk")), 0) << "it is read-only";
}

TEST_F(NbdExportsTest, WritersNeedADeviceThatShares) {
  qemu_img("create -q -f qcow2 " + path("a.qcow2") + " 1M");
  serve({"-drive", "if=none,id=a,file=@/a.qcow2"});
  const auto disk = take({.name = "a", .user = "-device test", .device = "dev", .share_writes = true}).at(0);
  ASSERT_TRUE(nbd->add({.id = "x", .node = "dev", .name = "disk", .writable = true}));
  ASSERT_EQ(status_of("qemu-io -f raw -c 'write -P 0x71 512 512' " + uri("disk")), 0);
  EXPECT_EQ(read(disk, 512, 512), std::string(512, 'q'));
}

TEST_F(NbdExportsTest, MistakesAreToldAndChangeNothing) {
  serve({"-drive", "if=none,id=a,driver=null-co,size=64k", "-drive",
         "if=none,id=r,driver=null-co,read-only=on"});
  static_cast<void>(take("a"));
  EXPECT_NE(error_of(nbd->add({.id = "x", .node = "a", .name = "a", .writable = true}))
                .find("does not let others write"),
            std::string::npos);
  EXPECT_EQ(error_of(nbd->add({.id = "x", .node = "b", .name = "b"})),
            "there is no disk or block node 'b'; did you mean 'a'?");
  EXPECT_EQ(error_of(nbd->add({.id = "x", .node = "r", .name = "r", .writable = true})),
            "'r' is read-only; leave writable=on out");
  EXPECT_NE(error_of(nbd->add({.id = "x", .node = "a", .name = "a", .bitmaps = {"b"}})).find("no bitmap 'b'"),
            std::string::npos);
  ASSERT_TRUE(nbd->add({.id = "x", .node = "a", .name = "a"}));
  EXPECT_EQ(error_of(nbd->add({.id = "x", .node = "a", .name = "c"})), "there is an export 'x' already");
  EXPECT_EQ(error_of(nbd->remove("y")), "there is no export 'y'; did you mean 'x'?");
  EXPECT_NE(error_of(nbd->start({.path = path("other.sock")})), "");
  ASSERT_TRUE(nbd->remove("x"));
  EXPECT_NE(status_of("qemu-img info " + uri("a")), 0);
  ASSERT_TRUE(nbd->add({.id = "x", .node = "a", .name = "a"}));
  EXPECT_EQ(status_of("qemu-img info " + uri("a")), 0);
  nbd->stop();
  EXPECT_TRUE(nbd->list().empty());
  EXPECT_NE(error_of(nbd->add({.id = "x", .node = "a", .name = "a"})), "");
}

TEST_F(NbdExportsTest, TlsIsOfObjects) {
  ASSERT_TRUE(std::filesystem::create_directory(path("keys")));
  make_file("keys/keys.psk", "alice:00112233445566778899aabbccddeeff\n");
  open({"-drive", "if=none,id=e,file.driver=file,file.filename=" + make_file("e", std::string(65536, 'e')),
        "-object", "tls-creds-psk,id=ours,dir=@/keys,endpoint=server", "-object",
        "tls-creds-psk,id=theirs,dir=@/keys,username=alice"});
  static_cast<void>(take("e"));
  nbd = std::make_unique<NbdExports>(*disks);
  EXPECT_EQ(error_of(nbd->start({.path = path("nbd.sock"), .tls_credentials = "theirs"})),
            "tls-creds: the object 'theirs' is for a client, and this is a server; give it endpoint=server");
  ASSERT_TRUE(nbd->start({.path = path("nbd.sock"), .tls_credentials = "ours"}));
  ASSERT_TRUE(nbd->add({.id = "x", .node = "e", .name = "disk"}));
  EXPECT_NE(status_of("nbdinfo " + uri("disk")), 0) << "it takes no client without TLS";
  EXPECT_EQ(status_of("nbdinfo 'nbds+unix://alice@/disk?socket=" + path("nbd.sock") +
                      "&tls-psk-file=" + path("keys/keys.psk") + "'"),
            0);
  const auto parsed = config::parse_qemu_command_line(std::vector<std::string>{
      "-blockdev", "driver=nbd,node-name=n,read-only=on,server.type=unix,server.path=" + path("nbd.sock") +
                       ",export=disk,tls-creds=theirs"});
  ASSERT_TRUE(parsed);
  const auto added = disks->add_node(parsed->machine.block_nodes.at(0));
  ASSERT_TRUE(added) << added.error().message();
  EXPECT_EQ(read(take("n"), 100, 512), std::string(512, 'e'));
}

}  // namespace
}  // namespace ostler::machine
