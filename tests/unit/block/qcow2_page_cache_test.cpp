// Pages of qcow2's tables in memory.
#include "block/filters/filter.h"
#include "block/null/null_node.h"
#include "block/qcow2/page_cache.h"
#include "block_fixture.h"

namespace ostler::block::qcow2 {
namespace {

using test::BlockTest;

// Reads give one letter each; the first one waits.
class SlowFile final : public FilterNode {
 public:
  SlowFile() : FilterNode("slow", "file") {}
  Task<int> read(uint64_t, Buffers to) override {
    const char content = next++;
    std::unique_lock lock(mutex);
    while (content == 'a' && !may_go) co_await waiting.wait(lock);
    for (const iovec& piece : to) memset(piece.iov_base, content, piece.iov_len);
    co_return 0;
  }
  void go() {
    const std::lock_guard lock(mutex);
    may_go = true;
    waiting.wake_all();
  }
  std::mutex mutex;
  WaitQueue waiting;
  char next = 'a';
  bool may_go = false;
};

Task<int> load(PageCache& cache, Node& file, char& content) {
  Pin pin;
  const int error = co_await cache.load(file, 4096, PageKind::kL2, pin);
  if (error == 0) content = static_cast<char>(pin.data()[0]);
  co_return error;
}

Task<int> drop_while_two_load(PageCache& cache, std::mutex& mutex, SlowFile& file, char& first,
                              char& second) {
  TaskGroup group;
  co_await group.start(load(cache, file, first));
  co_await group.start(load(cache, file, second));
  {
    const std::lock_guard lock(mutex);
    cache.drop_locked(0, 65536);
  }
  file.go();
  co_return co_await group.wait();
}

TEST_F(BlockTest, a_page_forgotten_while_it_is_loaded_is_read_again) {
  std::mutex mutex;
  PageCache cache(mutex, 4096, 1 << 20);
  SlowFile file;
  ASSERT_TRUE(file.connect(std::make_shared<NullNode>(1 << 20), pass_through_permissions(false)));
  char first = 0, second = 0;
  ASSERT_EQ(context.run_until(drop_while_two_load(cache, mutex, file, first, second)), 0);
  EXPECT_EQ(first, 'b');
  EXPECT_EQ(second, 'b');
}

}  // namespace
}  // namespace ostler::block::qcow2
