#include "boot/decompress.h"

#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

namespace ostler::boot {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t kSize = 100000, kPlenty = 1u << 20;

Bytes pattern() {
  Bytes bytes(kSize);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * i >> 7);
  return bytes;
}

Bytes gzip(const Bytes& from) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(from.size() + 1000);
  stream.next_in = const_cast<uint8_t*>(from.data());
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

Bytes xz(const Bytes& from) {
  Bytes out(from.size() + 1000);
  size_t used = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr, from.data(), from.size(), out.data(), &used,
                                    out.size()),
            LZMA_OK);
  out.resize(used);
  return out;
}

Bytes zstd(const Bytes& from) {
  Bytes out(ZSTD_compressBound(from.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), from.data(), from.size(), 3));
  return out;
}

Bytes lz4(const Bytes& from) {
  Bytes out(8 + static_cast<size_t>(LZ4_compressBound(static_cast<int>(from.size()))));
  const int packed =
      LZ4_compress_default(reinterpret_cast<const char*>(from.data()), reinterpret_cast<char*>(&out[8]),
                           static_cast<int>(from.size()), static_cast<int>(out.size() - 8));
  const uint32_t magic = 0x184c2102;
  std::memcpy(&out[0], &magic, 4);
  std::memcpy(&out[4], &packed, 4);
  out.resize(8 + static_cast<size_t>(packed));
  return out;
}

struct Format {
  const char* name;
  Bytes (*compress)(const Bytes&);
};

class Decompress : public ::testing::TestWithParam<Format> {};

TEST_P(Decompress, GivesBackWhatWasPacked) {
  const auto unpacked = decompress(GetParam().compress(pattern()), kPlenty);
  ASSERT_TRUE(unpacked.has_value()) << unpacked.error().message();
  EXPECT_TRUE(std::ranges::equal(unpacked->bytes(), pattern()));
}

TEST_P(Decompress, IgnoresTheSizeThatBzImageAppends) {
  Bytes packed = GetParam().compress(pattern());
  packed.insert(packed.end(), {1, 2, 3, 4});
  const auto unpacked = decompress(packed, kPlenty);
  ASSERT_TRUE(unpacked.has_value()) << unpacked.error().message();
  EXPECT_TRUE(std::ranges::equal(unpacked->bytes(), pattern()));
}

TEST_P(Decompress, RefusesDataThatIsCutShort) {
  Bytes packed = GetParam().compress(pattern());
  packed.resize(packed.size() / 2);
  const auto unpacked = decompress(packed, kPlenty);
  ASSERT_FALSE(unpacked.has_value());
  EXPECT_EQ(unpacked.error().kind(), ErrorKind::kCorrupt);
}

TEST_P(Decompress, StopsAtTheLimit) {
  const auto unpacked = decompress(GetParam().compress(pattern()), kSize / 2);
  ASSERT_FALSE(unpacked.has_value());
  EXPECT_EQ(unpacked.error().kind(), ErrorKind::kNoResource);
}

TEST_P(Decompress, KnowsItsFormat) {
  EXPECT_EQ(compression_of(GetParam().compress(pattern())), GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(Formats, Decompress,
                         ::testing::Values(Format{"gzip", gzip}, Format{"xz", xz}, Format{"zstd", zstd},
                                           Format{"lz4", lz4}),
                         [](const auto& format) { return format.param.name; });

TEST(DecompressOther, RefusesAnUnknownFormat) {
  const auto unpacked = decompress(pattern(), kPlenty);
  ASSERT_FALSE(unpacked.has_value());
  EXPECT_EQ(unpacked.error().kind(), ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace ostler::boot
