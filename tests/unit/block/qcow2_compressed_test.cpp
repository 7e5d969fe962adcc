// Compressed clusters of qcow2 images that come and go.
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using test::Qcow2Test;

class Qcow2Compressed : public Qcow2Test {
 protected:
  static constexpr size_t kCluster = 65536;

  // Of one size when it is compressed, near a whole cluster's: no two of them share a host cluster.
  std::string content() {
    std::string bytes(kCluster, '\0');
    for (size_t i = 0; i < 60000; ++i) bytes[i] = static_cast<char>(random());
    return bytes;
  }
  int compress(Node& node, uint64_t offset, const std::string& bytes) {
    const iovec whole{const_cast<char*>(bytes.data()), bytes.size()};
    return context.run_until(node.write_compressed(offset, Buffers(&whole, 1)));
  }

  std::mt19937 random{1};
};

// Reading keeps the last cluster in memory, under the place where it lay.
TEST_F(Qcow2Compressed, a_cluster_in_the_place_of_a_discarded_one_reads_as_itself) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  const std::string first = content(), second = content();
  ASSERT_EQ(compress(*node, 0, first), 0);
  EXPECT_TRUE(test::same(read(*node, 0, kCluster), first));
  const uint64_t length = std::filesystem::file_size(path("disk"));
  ASSERT_EQ(discard(*node, 0, kCluster), 0);
  ASSERT_EQ(flush(*node), 0);  // from here on its place is free
  ASSERT_EQ(compress(*node, kCluster, second), 0);
  EXPECT_EQ(std::filesystem::file_size(path("disk")), length);  // in the same place
  EXPECT_TRUE(test::same(read(*node, kCluster, kCluster), second));
  EXPECT_EQ(read(*node, 0, kCluster), std::string(kCluster, '\0'));
  close(node);
  expect_content("disk", std::string(kCluster, '\0') + second + std::string((1 << 20) - 2 * kCluster, '\0'));
  expect_check_clean("disk");
}

}  // namespace
}  // namespace ostler::block
