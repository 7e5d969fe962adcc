// What a developer sees of translations: perf's map, and the listings of -d.
#include "bt/perf_map.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "bt/listing.h"
#include "rig.h"
#include "support/temp_folder.h"

namespace ostler::bt {
namespace {

class PerfMapTest : public ::testing::Test {
 protected:
  std::string content() const {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  const test::TempFolder folder;
  const std::string path = folder / "perf-1.map";
};

TEST_F(PerfMapTest, ALineIsAddressSizeAndName) {
  auto map = PerfMap::create(path);
  ASSERT_TRUE(map.has_value());
  (*map)->add(reinterpret_cast<const void*>(0x7f1234), 0x40, "guest_0x1000");
  (*map)->add(reinterpret_cast<const void*>(0x7f2000), 0, "nothing");
  EXPECT_EQ(content(), "7f1234 40 guest_0x1000\n");
}

TEST_F(PerfMapTest, AFlushEmptiesIt) {
  auto map = PerfMap::create(path);
  ASSERT_TRUE(map.has_value());
  (*map)->add(reinterpret_cast<const void*>(0x1000), 1, "a");
  (*map)->clear();
  (*map)->add(reinterpret_cast<const void*>(0x2000), 1, "b");
  EXPECT_EQ(content(), "2000 1 b\n");
}

TEST_F(PerfMapTest, ALinkUnderItsNameIsReplacedAndNotFollowed) {
  const std::string other = folder / "other";
  std::ofstream(other) << "untouched";
  ASSERT_EQ(symlink(other.c_str(), path.c_str()), 0);
  auto map = PerfMap::create(path);
  ASSERT_TRUE(map.has_value());
  (*map)->add(reinterpret_cast<const void*>(0x1000), 1, "a");
  EXPECT_EQ(std::filesystem::file_size(other), 9u);
  EXPECT_FALSE(std::filesystem::is_symlink(path));
}

TEST_F(PerfMapTest, AFileThatCannotBeMadeIsAnError) {
  auto map = PerfMap::create(folder / "missing/perf-1.map");
  ASSERT_FALSE(map.has_value());
  EXPECT_NE(map.error().message().find("perfmap"), std::string::npos);
}

TEST(Listing, ShowsGuestAndHostCode) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(0);
  rig.code_at(kText, {0x89, 0xd8, 0xf4});  // mov eax, ebx; hlt
  rig.interpreter->run(100);
  GuestCode code;
  read_guest_code(*rig.mmu, rig.model, kText, kText, mode::kSupervisor | mode::kCpl0, {}, code);
  EXPECT_NE(guest_listing(code).find("mov eax, ebx"), std::string::npos) << guest_listing(code);
  const std::lock_guard lock(rig.shared->cache->mutex());
  CodeCache& cache = *rig.shared->cache;
  const std::string host = host_listing(cache, cache.block(1), cache.block(2).start);
  EXPECT_NE(host.find("mov eax, ebx"), std::string::npos) << host;
  EXPECT_EQ(host.find("db 0x"), std::string::npos) << host;
}

}  // namespace
}  // namespace ostler::bt
