#include "machine/guest_ram.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "config/qemu_command_line.h"
#include "machine/memory_backend.h"
#include "memory/dma.h"

namespace ostler::machine {
namespace {

constexpr uint64_t kMiB = 1u << 20;

class GuestRamTest : public ::testing::Test {
 protected:
  Result<GuestRam> create(std::vector<std::string> words) {
    auto parsed = config::parse_qemu_command_line(words);
    EXPECT_TRUE(parsed) << parsed.error().message();
    config_ = parsed->machine;
    auto properties = machine_properties(config_);
    EXPECT_TRUE(properties) << properties.error().message();
    return GuestRam::create(config_, *properties, warnings_);
  }
  GuestRam made(std::vector<std::string> words) {
    auto ram = create(std::move(words));
    EXPECT_TRUE(ram) << ram.error().message();
    return *std::move(ram);
  }
  std::string error(std::vector<std::string> words) {
    auto ram = create(std::move(words));
    return ram ? "no error" : ram.error().message();
  }
  acpi::Numa numa(std::vector<std::string> words) {
    const GuestRam ram = made(std::move(words));
    return ram.numa(MemoryLayout(config_.memory_bytes));
  }

  config::Machine config_;
  std::vector<std::string> warnings_;
};

TEST_F(GuestRamTest, BackendsOfNodesLieOneAfterTheOther) {
  GuestRam ram =
      made({"-object", "memory-backend-ram,id=a,size=16M", "-object", "memory-backend-memfd,id=b,size=8M",
            "-numa", "node,memdev=a", "-numa", "node,memdev=b"});
  ASSERT_EQ(ram.blocks().size(), 2u);
  memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  ram.map(MemoryLayout(24 * kMiB), space);
  memory::Dma dma(space);
  const std::vector<std::byte> across(8192, std::byte{5});
  ASSERT_TRUE(dma.write({16 * kMiB - 4096}, across));
  EXPECT_EQ(ram.blocks()[0]->host()[16 * kMiB - 1], std::byte{5});
  EXPECT_EQ(ram.blocks()[1]->host()[0], std::byte{5});
  EXPECT_EQ(ram.blocks()[1]->host()[4095], std::byte{5});
  EXPECT_EQ(ram.blocks()[1]->host()[4096], std::byte{0});
  EXPECT_FALSE(dma.write({24 * kMiB}, across)) << "there is no more";
}

TEST_F(GuestRamTest, ANodeMayLieOnBothSidesOfTheHole) {
  const acpi::Numa nodes =
      numa({"-m", "5G", "-smp", "4", "-numa", "node,mem=2G,cpus=0,cpus=3", "-numa", "node,mem=3G,cpus=1-2"});
  EXPECT_EQ(nodes.nodes, 2u);
  EXPECT_EQ(nodes.node_of, (std::vector<unsigned>{0, 1, 1, 0}));
  ASSERT_EQ(nodes.memory.size(), 3u);
  EXPECT_EQ(nodes.memory[0].size, 2 * kGibibyte);
  EXPECT_EQ(nodes.memory[1].base, 2 * kGibibyte);
  EXPECT_EQ(nodes.memory[1].size, kGibibyte);
  EXPECT_EQ(nodes.memory[2].base, 4 * kGibibyte);
  EXPECT_EQ(nodes.memory[2].size, 2 * kGibibyte);
  EXPECT_EQ(nodes.memory[2].node, 1u);
}

TEST_F(GuestRamTest, ARegionBeginsInsideABlockAboveTheHole) {
  GuestRam ram =
      made({"-m", "4G", "-object", "memory-backend-ram,id=a,size=1G", "-object",
            "memory-backend-ram,id=b,size=3G", "-numa", "node,memdev=a", "-numa", "node,memdev=b"});
  memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  ram.map(MemoryLayout(4 * kGibibyte), space);
  memory::Dma dma(space);
  const std::vector<std::byte> byte(1, std::byte{3});
  ASSERT_TRUE(dma.write({4 * kGibibyte}, byte));
  EXPECT_EQ(ram.blocks()[1]->host()[2 * kGibibyte], std::byte{3});
}

TEST_F(GuestRamTest, WithoutAWordMemoryAndSocketsAreShared) {
  const acpi::Numa nodes = numa({"-m", "100M", "-smp", "4,sockets=2", "-numa", "node", "-numa", "node"});
  EXPECT_EQ(nodes.node_of, (std::vector<unsigned>{0, 0, 1, 1}));
  ASSERT_EQ(nodes.memory.size(), 2u);
  EXPECT_EQ(nodes.memory[0].size, 48 * kMiB);
  EXPECT_EQ(nodes.memory[1].size, 52 * kMiB);
  EXPECT_TRUE(nodes.distances.empty());
  EXPECT_EQ(numa({"-m", "100M"}).nodes, 0u);
}

TEST_F(GuestRamTest, VcpusAreNamedByTheirPlace) {
  const acpi::Numa nodes = numa({"-smp", "8,sockets=2,dies=2,cores=2", "-numa", "node", "-numa", "node",
                                 "-numa", "cpu,node-id=0,die-id=0", "-numa", "cpu,node-id=1,die-id=1"});
  EXPECT_EQ(nodes.node_of, (std::vector<unsigned>{0, 0, 1, 1, 0, 0, 1, 1}));
}

TEST_F(GuestRamTest, ForgottenVcpusGoToTheFirstNodeWithAWarning) {
  EXPECT_EQ(numa({"-smp", "4", "-numa", "node", "-numa", "node,cpus=1-2"}).node_of,
            (std::vector<unsigned>{0, 1, 1, 0}));
  EXPECT_EQ(warnings_, std::vector<std::string>{"-numa: vCPUs 0, 3 are in no node and go to node 0"});
}

TEST_F(GuestRamTest, DistancesAreCompletedWhereTheirMirrorsAreTold) {
  EXPECT_EQ(numa({"-numa", "node", "-numa", "node", "-numa", "node", "-numa", "dist,src=0,dst=1,val=21",
                  "-numa", "dist,src=2,dst=0,val=31"})
                .distances,
            (std::vector<uint8_t>{10, 21, 31, 21, 10, 20, 31, 20, 10}));
}

TEST_F(GuestRamTest, MistakesAreNamed) {
  const std::string a = "memory-backend-ram,id=a,size=64M";
  EXPECT_NE(error({"-numa", "node,nodeid=1"}).find("number them from 0 without gaps"), std::string::npos);
  EXPECT_NE(error({"-smp", "2", "-numa", "node,cpus=2"}).find("there is no vCPU 2"), std::string::npos);
  EXPECT_NE(error({"-smp", "2", "-numa", "node,cpus=0-1", "-numa", "node,cpus=1"}).find("in node 0 already"),
            std::string::npos);
  EXPECT_NE(error({"-numa", "node", "-numa", "cpu,node-id=3"}).find("there is no node 3"), std::string::npos);
  EXPECT_NE(error({"-numa", "node", "-numa", "cpu,node-id=0,core-id=7"}).find("no such vCPU"),
            std::string::npos);
  EXPECT_NE(error({"-numa", "node", "-numa", "dist,src=0,dst=2,val=20"}).find("there is no node 2"),
            std::string::npos);
  EXPECT_NE(error({"-numa", "node", "-numa", "dist,src=0,dst=0,val=20"}).find("to itself is 10"),
            std::string::npos);
  EXPECT_NE(
      error({"-numa", "node", "-numa", "node", "-numa", "dist,src=0,dst=1,val=10"}).find("more than 10"),
      std::string::npos);
  EXPECT_NE(error({"-numa", "node", "-numa", "node", "-numa", "node", "-numa", "dist,src=0,dst=1,val=20",
                   "-numa", "dist,src=1,dst=0,val=21", "-numa", "dist,src=1,dst=2,val=21"})
                .find("from node 2 to 1 is missing"),
            std::string::npos);
  EXPECT_NE(error({"-m", "64M", "-numa", "node,mem=32M"}).find("32 MiB together and -m gives 64 MiB"),
            std::string::npos);
  EXPECT_NE(error({"-numa", "node,memdev=b"}).find("-numa node,memdev=b: there is no memory backend 'b'"),
            std::string::npos);
  EXPECT_NE(
      error({"-object", a, "-numa", "node,memdev=a", "-numa", "node,memdev=a"}).find("given to two nodes"),
      std::string::npos);
  EXPECT_NE(error({"-object", a, "-m", "80M", "-numa", "node,memdev=a", "-numa", "node,mem=16M"})
                .find("memdev for each node with memory"),
            std::string::npos);
  EXPECT_NE(error({"-object", a, "-m", "32M", "-machine", "pc,memory-backend=a"})
                .find("it has 64M and -m gives 32M"),
            std::string::npos);
  EXPECT_NE(
      error({"-object", a, "-machine", "pc,memory-backend=a", "-mem-prealloc"}).find("give mem-path and"),
      std::string::npos);
}

TEST_F(GuestRamTest, MistakesInBackendsAreNamed) {
  const auto of = [&](const std::string& object) { return error({"-object", object}); };
  EXPECT_NE(of("memory-backend-ram,id=a").find("size: is missing"), std::string::npos);
  EXPECT_NE(of("memory-backend-file,id=a,size=1M").find("mem-path: is missing"), std::string::npos);
  EXPECT_NE(of("memory-backend-file,id=a,size=1M,mem-path=/tmp,pmem=on").find("pmem: is not available"),
            std::string::npos);
  EXPECT_NE(of("memory-backend-ram,id=a,size=1M,prealloc=on,reserve=off").find("leave one of the two out"),
            std::string::npos);
  EXPECT_NE(of("memory-backend-ram,id=a,size=1M,host-nodes=3-1").find("'3-1' is not"), std::string::npos);
  EXPECT_NE(of("memory-backend-ram,id=a,size=1M,prealloc-threads=0").find("outside 1 to 1024"),
            std::string::npos);
  EXPECT_NE(of("memory-backend-ram,id=a,size=1M,hugetlb=on").find("hugetlb"), std::string::npos);
}

TEST_F(GuestRamTest, MoreThanTheHostHasMustBeMeant) {
  const auto of = [&](const std::string& flags) {
    return error({"-object", "memory-backend-ram,id=a,size=16T" + flags, "-machine", "pc,memory-backend=a"});
  };
  EXPECT_NE(of("").find("is more than this host's"), std::string::npos) << of("");
  EXPECT_EQ(of(",reserve=off").find("is more than this host's"), std::string::npos) << of(",reserve=off");
}

TEST_F(GuestRamTest, AFileThatStaysIsTold) {
  const std::string path = ::testing::TempDir() + "guest_memory" + std::to_string(getpid());
  made({"-m", "16M", "-mem-path", path});
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("a file of 16M is made, and stays"), std::string::npos) << warnings_[0];
  made({"-m", "16M", "-mem-path", path});
  made({"-m", "16M", "-mem-path", ::testing::TempDir()});
  EXPECT_EQ(warnings_.size(), 1u) << "they are there";
  unlink(path.c_str());
}

TEST_F(GuestRamTest, TheSizeOfHugePagesWithoutThemIsAWarning) {
  const GuestRam ram =
      made({"-machine", "memory-backend=a", "-object", "memory-backend-memfd,id=a,size=16M,hugetlbsize=2M"});
  EXPECT_EQ(ram.blocks()[0]->size(), 16 * kMiB);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("hugetlb=on"), std::string::npos);
}

TEST_F(GuestRamTest, BackendsBecomeWhatTheySay) {
  const GuestRam ram = made({"-machine", "pc,memory-backend=a,mem-merge=off,dump-guest-core=on", "-object",
                             "memory-backend-memfd,id=a,size=16M,prealloc=on,prealloc-threads=2,host-nodes=0,"
                             "policy=preferred,x-use-canonical-path-for-ramblock-id=off"});
  const memory::HostMemory& memory = ram.blocks()[0]->memory();
  EXPECT_GE(memory.fd(), 0);
  EXPECT_TRUE(memory.shared());
  config::Object object{.type = "memory-backend-ram",
                        .id = "r",
                        .properties = {{"size", "1M"}, {"host-nodes", "0-1"}, {"policy", "interleave"}},
                        .origin = "-object"};
  const auto backend = MemoryBackend::parse(object, {}, warnings_);
  ASSERT_TRUE(backend);
  EXPECT_EQ(backend->options.host_nodes, (std::vector<unsigned>{0, 1}));
  EXPECT_TRUE(backend->options.merge) << "as the machine has it";
  EXPECT_FALSE(backend->options.dump);
  EXPECT_FALSE(backend->options.share);
}

}  // namespace
}  // namespace ostler::machine
