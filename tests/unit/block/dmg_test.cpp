// Apple disk images, made here chunk by chunk.
#include <bzlib.h>
#include <fmt/format.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "format_fixture.h"

namespace ostler::block {
namespace {

std::string be(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += i < 8 ? static_cast<char>(value >> (8 * i)) : '\0';
  return text;
}

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) text += i + j > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * j) & 63];
    if (i % 48 == 45) text += "\n\t\t";
  }
  return text;
}

struct Chunk {
  uint32_t type;
  std::string content;
  uint64_t sectors = 0;  // of zeros
};

class DmgTest : public test::FormatTest {
 protected:
  static constexpr uint32_t kZero = 0, kRaw = 1, kIgnore = 2, kZlib = 0x80000005, kBzip2 = 0x80000006;

  // Two tables: the chunks of each follow each other.
  std::string make_dmg(const std::vector<std::vector<Chunk>>& tables, std::string* model = nullptr) {
    std::string data,
        list = "<?xml version=\"1.0\"?><plist><dict><key>resource-fork</key><dict><key>blkx</key><array>";
    uint64_t first = 0;
    for (const auto& table : tables) {
      uint64_t sector = 0;
      std::string entries;
      for (const Chunk& chunk : table) {
        const uint64_t sectors = chunk.content.empty() ? chunk.sectors : chunk.content.size() / 512;
        const std::string packed = pack(chunk);
        entries += be(chunk.type, 4) + be(0, 4) + be(sector, 8) + be(sectors, 8) + be(data.size(), 8) +
                   be(packed.size(), 8);
        data += packed;
        if (model != nullptr)
          *model += chunk.content.empty() ? std::string(sectors * 512, '\0') : chunk.content;
        sector += sectors;
      }
      entries += be(0xffffffff, 4) + be(0, 4) + be(sector, 8) + be(0, 24);
      const std::string mish = "mish" + be(1, 4) + be(first, 8) + be(sector, 8) + be(0, 8) + be(2048, 4) +
                               be(0, 4) + std::string(24, '\0') + std::string(136, '\0') +
                               be(table.size() + 1, 4) + entries;
      list += "<dict><key>Data</key>\n<data>\n\t\t" + base64(mish) + "\n</data></dict>";
      first += sector;
    }
    list += "</array></dict></dict></plist>";
    std::string trailer = "koly" + be(4, 4) + be(512, 4) + be(1, 4) + be(0, 8) + be(0, 8) +
                          be(data.size(), 8) + std::string(16, '\0') + be(1, 4) + be(1, 4) +
                          std::string(16, '\0') + std::string(136, '\0') + be(data.size(), 8) +
                          be(list.size(), 8) + std::string(120, '\0') + std::string(136, '\0') + be(1, 4) +
                          be(first, 8);
    trailer.resize(512);
    return data + list + trailer;
  }

 private:
  static std::string pack(const Chunk& chunk) {
    if (chunk.type == kZlib) {
      uLongf bytes = compressBound(chunk.content.size());
      std::string packed(bytes, '\0');
      compress(reinterpret_cast<Bytef*>(packed.data()), &bytes,
               reinterpret_cast<const Bytef*>(chunk.content.data()), chunk.content.size());
      packed.resize(bytes);
      return packed;
    }
    if (chunk.type == kBzip2) {
      std::string packed(chunk.content.size() + 1000, '\0');
      auto bytes = static_cast<unsigned>(packed.size());
      std::string source = chunk.content;
      BZ2_bzBuffToBuffCompress(packed.data(), &bytes, source.data(), static_cast<unsigned>(source.size()), 9,
                               0, 0);
      packed.resize(bytes);
      return packed;
    }
    return chunk.content;
  }
};

TEST_F(DmgTest, dmg_chunks_are_read) {
  const std::string a = random_content(262144, 1), b = random_content(100 * 512, 2),
                    c = random_content(262144, 3);
  std::string model;
  const std::string file = make_file("disk.dmg", make_dmg({{{kZlib, a}, {kZero, "", 300}, {kRaw, b}},
                                                           {{kIgnore, "", 7}, {kZlib, c}, {kZlib, a}}},
                                                          &model));
  expect_ours(file, "", model);
  expect_content(file, "dmg", model);
  NodePtr node = open(file, "dmg", false);
  std::mt19937 random(5);
  for (int i = 0; i < 50; ++i) {
    const uint64_t offset = random() % model.size(),
                   bytes = 1 + random() % std::min<uint64_t>(model.size() - offset, 300000);
    ASSERT_EQ(read(*node, offset, bytes) == model.substr(offset, bytes), true) << offset;
  }
  EXPECT_EQ(read(*node, model.size() - 512, 1024), model.substr(model.size() - 512) + std::string(512, '\0'));
  BlockStatus status;
  EXPECT_EQ(context.run_until(node->block_status(262144 + 512, 1 << 20, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(status.zero && status.bytes == 299 * 512);
  EXPECT_EQ(context.run_until(node->block_status(0, 1 << 20, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(status.compressed && status.data && status.bytes == 262144);
  EXPECT_EQ(write(*node, 0, std::string(512, 'x')), -EROFS);
  close(node);
}

TEST_F(DmgTest, dmg_chunks_of_bzip2_are_read) {
  std::string model;
  const std::string file =
      make_file("disk.dmg",
                make_dmg({{{kBzip2, random_content(262144, 1)}, {kZlib, random_content(65536, 2)}}}, &model));
  expect_ours(file, "dmg", model);
}

TEST_F(DmgTest, dmg_is_read_only_and_known_by_its_name) {
  const std::string content = make_dmg({{{kZero, "", 8}}});
  EXPECT_NE(open_error(make_file("disk.dmg", content), "", true).find("only be read"), std::string::npos);
  NodePtr node = open(make_file("disk.img", content), "", false);
  EXPECT_EQ(node->driver(), "raw");
}

TEST_F(DmgTest, dmg_other_compressions_are_refused_by_name) {
  struct Case {
    uint32_t type;
    std::string name;
  };
  for (const Case& each : {Case{0x80000004, "ADC"}, Case{0x80000007, "LZFSE"}, Case{0x80000008, "LZMA"},
                           Case{0x1234, "0x1234"}}) {
    const std::string file = make_file("disk.dmg", make_dmg({{{each.type, std::string(512, 'x')}}}));
    expect_refused(file, "dmg", {each.name});
  }
}

TEST_F(DmgTest, dmg_damaged_chunks_are_errors) {
  std::string bytes = make_dmg({{{kZlib, random_content(65536, 1)}}});
  bytes[100] ^= 1;
  const std::string file = make_file("disk.dmg", bytes);
  NodePtr node = open(file, "dmg", false);
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
  close(node);
}

TEST_F(DmgTest, dmg_damaged_tables_are_refused) {
  const std::string good = make_dmg({{{kRaw, std::string(4096, 'a')}, {kRaw, std::string(4096, 'b')}}});
  const size_t trailer = good.size() - 512;
  const auto with = [&](size_t at, const std::string& value) {
    std::string changed = good;
    changed.replace(at, value.size(), value);
    return make_file("disk.dmg", changed);
  };
  expect_refused(with(trailer, "xxxx"), "dmg", {"trailer"});
  expect_refused(with(trailer + 60, be(2, 4)), "dmg", {"2 segments"});
  expect_refused(with(trailer + 224, be(0, 8)), "dmg", {"no property list"});
  expect_refused(with(trailer + 224, be(uint64_t{1} << 40, 8)), "dmg", {"not within the file"});
  expect_refused(with(trailer + 216, be(~uint64_t{0}, 8)), "dmg", {"not within the file"});
  expect_refused(with(trailer + 24, be(1 << 20, 8)), "dmg", {"not within the file"});
  expect_refused(with(good.find("</data>"), "<xxxxxx"), "dmg", {"cut off"});
  expect_refused(with(good.find("<data>"), "<xxxx>"), "dmg", {"no chunk"});
  expect_refused(make_file("disk.dmg", "short"), "dmg", {"trailer"});
  // Entries are base64: made anew with a wrong number in the decoded table.
  const auto with_entry = [&](size_t at, const std::string& value) {
    std::string mish = "mish" + be(1, 4) + be(0, 8) + be(16, 8) + std::string(176, '\0') + be(2, 4);
    for (int i = 0; i < 2; ++i)
      mish += be(kRaw, 4) + be(0, 4) + be(i * 8, 8) + be(8, 8) + be(i * 4096, 8) + be(4096, 8);
    mish.replace(at, value.size(), value);
    const std::string list = "<data>" + base64(mish) + "</data>";
    std::string end = good.substr(trailer);
    end.replace(216, 8, be(8192, 8));
    end.replace(224, 8, be(list.size(), 8));
    return make_file("disk.dmg", std::string(8192, 'x') + list + end);
  };
  EXPECT_EQ(open_error(with_entry(0, "mish"), "dmg"), "");
  expect_refused(with_entry(200, be(3, 4)), "dmg", {"3 chunks"});
  expect_refused(with_entry(8, be(uint64_t{1} << 50, 8)), "dmg", {"sectors"});
  expect_refused(with_entry(204 + 8, be(uint64_t{1} << 63, 8)), "dmg", {"sectors"});
  expect_refused(with_entry(204 + 16, be(uint64_t{1} << 60, 8)), "dmg", {"sectors"});
  expect_refused(with_entry(204 + 16, be(9, 8)), "dmg", {"has 4096 in the file"});
  expect_refused(with_entry(204 + 40 + 8, be(4, 8)), "dmg", {"overlap"});
  expect_refused(with_entry(204 + 24, be(~uint64_t{0}, 8)), "dmg", {"not within the file"});
  expect_refused(with_entry(204 + 32, be(~uint64_t{0}, 8)), "dmg", {"not within the file"});
  expect_refused(with_entry(204, be(kZlib, 4) + be(0, 12) + be(1 << 30, 8)), "dmg", {"unpacked"});
}

}  // namespace
}  // namespace ostler::block
