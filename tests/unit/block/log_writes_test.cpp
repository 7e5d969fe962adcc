// The filter "blklogwrites": its log replays to the disk, and qemu-io continues it.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/filters/log_writes_node.h"
#include "block_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

struct Entry {
  uint64_t first, sectors, flags;
  std::string data;
};

class LogWritesTest : public test::BlockTest {
 protected:
  void SetUp() override {
    make_file("disk", blank);
    make_file("log", "");
  }
  json options(json more = json::object()) {
    json result = {{"driver", "blklogwrites"},
                   {"file", {{"driver", "file"}, {"filename", path("disk")}}},
                   {"log", {{"driver", "file"}, {"filename", path("log")}}}};
    result.update(more);
    return result;
  }
  std::string error_of(const json& wanted) {
    OpenFlags flags;
    flags.writable = true;
    auto node = context.run_until(opener.open(wanted, flags));
    return node ? "" : node.error().message();
  }
  // Those that the log's first sector counts.
  std::vector<Entry> entries() {
    const std::string log = content_of(path("log"));
    const auto word = [&](size_t at) { return load_le<uint64_t>(&log.at(at)); };
    EXPECT_EQ(word(0), LogWritesNode::kMagic);
    EXPECT_EQ(word(8), LogWritesNode::kVersion);
    const uint64_t sector = load_le<uint32_t>(&log.at(24));
    std::vector<Entry> result;
    size_t at = sector;
    for (uint64_t i = 0; i < word(16); ++i) {
      Entry entry{word(at), word(at + 8), word(at + 16), {}};
      EXPECT_EQ(word(at + 24), 0u);
      at += sector;
      if ((entry.flags & LogWritesNode::kDiscarded) == 0) entry.data = log.substr(at, entry.sectors * sector);
      at += entry.data.size();
      result.push_back(entry);
    }
    EXPECT_LE(at, log.size());
    return result;
  }
  static std::string replayed(std::string disk, const std::vector<Entry>& log, uint64_t sector) {
    for (const Entry& each : log) {
      if ((each.flags & LogWritesNode::kDiscarded) != 0)
        disk.replace(each.first * sector, each.sectors * sector, each.sectors * sector, '\0');
      else
        disk.replace(each.first * sector, each.data.size(), each.data);
    }
    return disk;
  }
  int qemu_io(const std::string& command, const std::string& more) {
    return std::system(("qemu-io -c '" + command +
                        "' --image-opts driver=blklogwrites,file.driver=file,file.filename=" + path("disk") +
                        ",log.driver=file,log.filename=" + path("log") + more + " >/dev/null 2>&1")
                           .c_str());
  }
  const std::string blank = std::string(256 << 10, '.');
};

TEST_F(LogWritesTest, the_log_replays_to_the_disk) {
  for (const uint64_t sector : {512u, 4096u}) {
    make_file("disk", blank);
    NodePtr node = open_options(options({{"log-sector-size", sector}}));
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(write(*node, 8192, std::string(8192, 'a')), 0);
    EXPECT_EQ(write(*node, 3 * sector - 100, std::string(700, 'b')), 0);  // parts of two sectors
    EXPECT_EQ(zero(*node, 65536, 20480, false), 0);
    EXPECT_EQ(discard(*node, 131072 - 256, 16384), 0);
    EXPECT_EQ(flush(*node), 0);
    EXPECT_EQ(write(*node, 0, std::string(4096, 'c')), 0);
    close(node);
    const auto log = entries();
    ASSERT_EQ(log.size(), 6u);
    EXPECT_EQ(log[0].first, 8192 / sector);
    EXPECT_EQ(log[0].sectors, 8192 / sector);
    EXPECT_EQ(log[1].sectors, sector == 512 ? 3u : 2u);
    EXPECT_EQ(log[3].flags, LogWritesNode::kDiscarded);
    EXPECT_EQ(log[4].flags, LogWritesNode::kFlushed);
    EXPECT_EQ(log[4].sectors, 0u);
    std::string disk = content_of(path("disk"));
    // The parts of sectors at a discard's ends are not told.
    for (const size_t end : {size_t{131072 - 256}, size_t{131072 + 16384 - 256}}) {
      const size_t begin = end / sector * sector;
      if (end % sector != 0) disk.replace(begin, sector, sector, '.');
    }
    EXPECT_EQ(replayed(blank, log, sector), disk) << sector;
  }
}

TEST_F(LogWritesTest, entries_are_counted_by_a_flush_and_after_the_interval) {
  NodePtr node = open_options(options({{"log-super-update-interval", 3}}));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(entries().size(), 0u);
  for (const size_t counted : {0u, 0u, 3u, 3u}) {
    EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
    EXPECT_EQ(entries().size(), counted);
  }
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(entries().size(), 5u);
  close(node);
}

TEST_F(LogWritesTest, a_log_is_continued_here_and_by_qemu_io) {
  NodePtr node = open_options(options({{"log-sector-size", 4096}}));
  EXPECT_EQ(write(*node, 0, std::string(4096, 'a')), 0);
  close(node);
  ASSERT_EQ(qemu_io("write -P 98 8192 4096", ",log-append=on"), 0);
  node = open_options(options({{"log-append", true}}));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(write(*node, 16384, std::string(4096, 'c')), 0);
  close(node);
  EXPECT_EQ(replayed(blank, entries(), 4096), content_of(path("disk")));
  EXPECT_EQ(content_of(path("disk")).substr(8192, 4), "bbbb");
}

TEST_F(LogWritesTest, a_new_log_begins_where_none_is_continued) {
  for (int i = 0; i < 2; ++i) {
    NodePtr node = open_options(options());
    EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
    close(node);
    EXPECT_EQ(entries().size(), 1u);
  }
}

TEST_F(LogWritesTest, a_log_by_node_name) {
  NodePtr log = open_options({{"driver", "file"}, {"filename", path("log")}, {"node-name", "kept"}});
  NodePtr node = open_options(options({{"log", "kept"}}));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(entries().size(), 2u);
  close(node);
  close(log);
}

TEST_F(LogWritesTest, what_cannot_be_logged_fails) {
  json full = {{"driver", "blkdebug"}, {"image", {{"driver", "file"}, {"filename", path("log")}}}};
  full["inject-error"] = json::array({json{{"event", "pwritev"}, {"errno", 28}, {"sector", 1}}});
  NodePtr node = open_options(options({{"log", full}}));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(write(*node, 0, std::string(512, 'a')), -ENOSPC);
  close(node);
  EXPECT_EQ(entries().size(), 0u);
}

TEST_F(LogWritesTest, mistakes_are_named) {
  json without = options();
  without.erase("log");
  EXPECT_NE(error_of(without).find("option 'log' is missing"), std::string::npos);
  for (const uint64_t sector : {256u, 1000u, 16u << 20})
    EXPECT_NE(error_of(options({{"log-sector-size", sector}})).find("a power of two from 512 to 8M"),
              std::string::npos);
  EXPECT_NE(error_of(options({{"log-super-update-interval", 0}})).find("1 at least"), std::string::npos);
  EXPECT_NE(error_of(options({{"log-append", true}, {"log-sector-size", 512}})).find("leave it out"),
            std::string::npos);
}

TEST_F(LogWritesTest, a_damaged_log_is_not_continued) {
  NodePtr node = open_options(options());
  EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
  close(node);
  const std::string whole = content_of(path("log"));
  const auto broken = [&](size_t at, uint64_t value, size_t bytes) {
    std::string log = whole;
    memcpy(&log[at], &value, bytes);
    make_file("log", log);
    return error_of(options({{"log-append", true}}));
  };
  EXPECT_NE(broken(0, 1, 8).find("holds no log of version 1"), std::string::npos);
  EXPECT_NE(broken(8, 2, 8).find("holds no log of version 1"), std::string::npos);
  EXPECT_NE(broken(24, 0, 4).find("its sectors have 0 bytes"), std::string::npos);
  EXPECT_NE(broken(16, 3, 8).find("ends after 1 of 3 entries"), std::string::npos);
  EXPECT_NE(broken(512 + 8, 100, 8).find("ends within entry 0"), std::string::npos);
  EXPECT_NE(broken(512 + 8, ~uint64_t{0}, 8).find("ends within entry 0"), std::string::npos);
}

}  // namespace
}  // namespace ostler::block
