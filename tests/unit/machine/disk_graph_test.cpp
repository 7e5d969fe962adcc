// -blockdev and -drive as graphs of nodes.
#include "disks_fixture.h"

namespace ostler::machine {
namespace {

using DiskGraph = test::DisksTest;

const std::string kSector(512, 'a');

TEST_F(DiskGraph, NodesAreMadeOnceAndReferredToByName) {
  make_file("a.img", std::string(8192, 'a'));
  open({"-blockdev", "file,node-name=proto,filename=@/a.img", "-blockdev", "raw,node-name=disk,file=proto"});
  const auto disk = take("disk");
  EXPECT_EQ(disk->size(), 8192u);
  EXPECT_EQ(node_of(disk)->child("file")->node(), disks->opener().find("proto"));
  EXPECT_EQ(write(disk, 512, std::string(512, 'b')), 0);
  disks.reset();
  EXPECT_EQ(content_of("a.img").substr(512, 512), std::string(512, 'b'));
}

TEST_F(DiskGraph, ABackingNodeByName) {
  make_file("base.img", std::string(65536, 'a'));
  qemu_img("create -q -f qcow2 " + path("top.qcow2") + " 64k");
  open({"-blockdev",
        R"({"driver":"raw","node-name":"base","read-only":true,)"
        R"("file":{"driver":"file","filename":"@/base.img"}})",
        "-blockdev", "qcow2,node-name=top,file.driver=file,file.filename=@/top.qcow2,backing=base"});
  const auto disk = take("top");
  EXPECT_EQ(read(disk, 4096, 512), kSector);
  EXPECT_EQ(write(disk, 4096, std::string(512, 'b')), 0);
  disks.reset();
  EXPECT_EQ(content_of("base.img"), std::string(65536, 'a'));
  qemu_img("check -q " + path("top.qcow2"));
}

TEST_F(DiskGraph, NullMeansNoBackingFile) {
  make_file("base.img", std::string(65536, 'a'));
  qemu_img("create -q -f qcow2 -F raw -b base.img " + path("top.qcow2"));
  open({"-blockdev", R"({"driver":"qcow2","node-name":"top","backing":null,)"
                     R"("file":{"driver":"file","filename":"@/top.qcow2"}})"});
  EXPECT_EQ(read(take("top"), 0, 512), std::string(512, '\0'));
}

TEST_F(DiskGraph, TwoOverlaysShareABase) {
  make_file("base.img", std::string(65536, 'a'));
  for (const char* name : {"x.qcow2", "y.qcow2"}) qemu_img("create -q -f qcow2 " + path(name) + " 64k");
  open({"-blockdev", "raw,node-name=base,read-only=on,file.driver=file,file.filename=@/base.img", "-blockdev",
        "qcow2,node-name=x,file.driver=file,file.filename=@/x.qcow2,backing=base", "-blockdev",
        "qcow2,node-name=y,file.driver=file,file.filename=@/y.qcow2,backing=base"});
  const auto x = take("x");
  const auto y = take("y");
  EXPECT_EQ(write(x, 0, std::string(512, 'x')), 0);
  EXPECT_EQ(read(y, 0, 512), kSector);
  disks.reset();
  for (const char* name : {"x.qcow2", "y.qcow2"}) qemu_img("check -q " + path(name));
}

TEST_F(DiskGraph, MistakesNameTheOption) {
  make_file("a.img", kSector);
  EXPECT_EQ(try_open({"-blockdev", "raw,node-name=d,file=prto"}),
            "-blockdev raw,node-name=d,file=prto: block node: option 'file': there is no block node "
            "'prto'; a file is meant by file.filename=prto");
  EXPECT_NE(try_open({"-blockdev", "raww,node-name=d,file=p"}).find("'raww' is not an image format"),
            std::string::npos);
  EXPECT_NE(try_open({"-blockdev", "file,node-name=d,filname=@/a.img"}).find("filename"), std::string::npos);
  EXPECT_NE(try_open({"-blockdev", "file,node-name=d,filename=@/a.img", "-blockdev",
                      "file,node-name=d,filename=@/a.img,read-only=on,force-share=on"})
                .find("there is a block node 'd' already"),
            std::string::npos);
  EXPECT_NE(try_open({"-blockdev", "file,node-name=p,filename=@/a.img,read-only=on", "-blockdev",
                      "raw,node-name=d,file=p"})
                .find("the node 'p' is read-only; say read-only=on here too"),
            std::string::npos);
  EXPECT_NE(try_open({"-drive", "if=none,id=a,file=@/no.img"}).find("no such disk image"), std::string::npos);
}

TEST_F(DiskGraph, AutoReadOnlyFallsBack) {
  make_file("a.img", kSector);
  open({"-blockdev", "file,node-name=p,filename=@/a.img,read-only=on", "-blockdev",
        "raw,node-name=d,file=p,auto-read-only=on"});
  EXPECT_TRUE(take("d")->read_only());
}

TEST_F(DiskGraph, ADiskHasOneWriterUnlessItIsShared) {
  make_file("a.img", kSector);
  open({"-blockdev", "file,node-name=a,filename=@/a.img"});
  EXPECT_NE(take("a"), nullptr);
  EXPECT_NE(take_error({.name = "a", .user = "-device b"}).find("-device b: "), std::string::npos);
  disks.reset();
  open({"-blockdev", "file,node-name=a,filename=@/a.img"});
  const DiskWish shared{.name = "a", .user = "-device test", .share_writes = true};
  EXPECT_NE(take(shared).at(0), nullptr);
  EXPECT_NE(take(shared).at(0), nullptr);
}

TEST_F(DiskGraph, ADriveHasOneDevice) {
  make_file("a.img", kSector);
  open({"-drive", "if=none,id=a,file=@/a.img,format=raw"});
  EXPECT_NE(take("a"), nullptr);
  EXPECT_EQ(take_error({.name = "a", .user = "-device b"}),
            "-device b: the disk 'a' is already used by -device test");
  EXPECT_EQ(take_error({.name = "aa", .user = "-device b"}),
            "-device b: there is no disk or block node 'aa'; did you mean 'a'?");
}

TEST_F(DiskGraph, ADriveTakesNamesAsPeopleWriteThem) {
  make_file("a.img", kSector);
  open({"-drive",
        R"(if=none,id=a,file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"@/a.img"}})",
        "-drive", "if=none,id=b,driver=null-co,size=1M", "-drive",
        "if=none,id=c,driver=raw,file.driver=null-co,file.size=2M"});
  EXPECT_EQ(read(take("a"), 0, 512), kSector);
  EXPECT_EQ(take("b")->size(), 1u << 20);
  EXPECT_EQ(take("c")->size(), 2u << 20);
}

TEST_F(DiskGraph, ADriveReplacesTheBackingFile) {
  make_file("old.img", std::string(65536, 'o'));
  make_file("new.img", std::string(65536, 'n'));
  qemu_img("create -q -f qcow2 -F raw -b old.img " + path("top.qcow2"));
  open({"-drive",
        "if=none,id=a,file=@/top.qcow2,backing.driver=raw,backing.file.driver=file,"
        "backing.file.filename=@/new.img"});
  EXPECT_EQ(read(take("a"), 0, 4), "nnnn");
}

TEST_F(DiskGraph, SnapshotKeepsTheImageAndLeavesNoFile) {
  make_file("a.img", std::string(8192, 'a'));
  setenv("TMPDIR", folder.c_str(), 1);
  open({"-snapshot", "-drive", "if=none,id=a,file=@/a.img,format=raw"});
  unsetenv("TMPDIR");
  const auto disk = take("a");
  EXPECT_FALSE(disk->read_only());
  EXPECT_EQ(write(disk, 0, std::string(512, 'b')), 0);
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'b'));
  size_t files = 0;
  for (const auto& each : std::filesystem::directory_iterator(folder)) files += each.exists() ? 1 : 0;
  EXPECT_EQ(files, 1u);
  disks.reset();
  EXPECT_EQ(content_of("a.img"), std::string(8192, 'a'));
}

TEST_F(DiskGraph, CopyOnReadFillsTheImage) {
  make_file("base.img", std::string(65536, 'a'));
  qemu_img("create -q -f qcow2 -F raw -b base.img " + path("top.qcow2"));
  open({"-drive", "if=none,id=a,file=@/top.qcow2,copy-on-read=on"});
  EXPECT_EQ(read(take("a"), 0, 512), kSector);
  disks.reset();
  make_file("base.img", std::string(65536, 'c'));
  open({"-drive", "if=none,id=a,file=@/top.qcow2"});
  EXPECT_EQ(read(take("a"), 0, 512), kSector);
}

TEST_F(DiskGraph, CopyOnReadIsLeftOutOfADriveThatIsOnlyRead) {
  make_file("base.img", std::string(65536, 'a'));
  qemu_img("create -q -f qcow2 -F raw -b base.img " + path("top.qcow2"));
  testing::internal::CaptureStderr();
  open({"-drive", "if=none,id=a,file=@/top.qcow2,copy-on-read=on,readonly=on"});
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("drive 'a': copy-on-read=on does nothing"), std::string::npos) << told;
  const auto disk = take("a");
  EXPECT_TRUE(disk->read_only());
  EXPECT_EQ(node_of(disk)->driver(), "qcow2");
  EXPECT_EQ(read(disk, 0, 512), kSector);
}

TEST_F(DiskGraph, ADiskIsResizedWhileItIsInUse) {
  qemu_img("create -q -f qcow2 " + path("a.qcow2") + " 1M");
  open({"-drive", "if=none,id=a,file=@/a.qcow2"});
  const auto disk = take("a");
  std::atomic<int> told{0};
  disk->on_resize([&] { ++told; });
  ASSERT_TRUE(disks->resize("a", 2u << 20));
  EXPECT_EQ(disk->size(), 2u << 20);
  EXPECT_GE(told, 1);
  EXPECT_EQ(write(disk, (2u << 20) - 512, kSector), 0);
  EXPECT_NE(disks->resize("b", 512).error().message().find("there is no disk"), std::string::npos);
  EXPECT_NE(disks->resize("a", 100).error().message().find("sectors of 512"), std::string::npos);
  disk->on_resize({});
}

TEST_F(DiskGraph, NodesComeAndGoWhileTheGuestRuns) {
  make_file("a.img", std::string(4096, 'a'));
  open({"-drive", "if=none,id=d,driver=null-co"});
  config::BlockNode node{.name = "n",
                         .options = R"({"driver":"raw","node-name":"n","file.driver":"file",)"
                                    R"("file.filename":")" +
                                    path("a.img") + "\"}",
                         .origin = {}};
  ASSERT_TRUE(disks->add_node(node));
  const config::BlockNode same{
      .name = "n", .options = R"({"driver":"null-co","node-name":"n"})", .origin = {}};
  EXPECT_NE(disks->add_node(same).error().message().find("there is a block node 'n' already"),
            std::string::npos);
  EXPECT_EQ((*disks->node("n"))->size(), 4096u);
  node.name = "d";
  EXPECT_NE(disks->add_node(node).error().message().find("is taken by another disk"), std::string::npos);
  EXPECT_NE(take("n"), nullptr);
  EXPECT_EQ(disks->remove_node("n").error().message(), "'n' is in use by 'n'");
  EXPECT_NE(disks->remove_node("m").error().message().find("there is no block node 'm'"), std::string::npos);
  EXPECT_EQ(disks->node("nn").error().message(), "there is no disk or block node 'nn'; did you mean 'n'?");
}

}  // namespace
}  // namespace ostler::machine
