#include "boot/decompress.h"

#include <fmt/format.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>

#include "base/bytes.h"

namespace ostler::boot {
namespace {

constexpr std::array<uint8_t, 2> kGzipMagic{0x1f, 0x8b};
constexpr std::array<uint8_t, 6> kXzMagic{0xfd, '7', 'z', 'X', 'Z', 0};
constexpr std::array<uint8_t, 4> kZstdMagic{0x28, 0xb5, 0x2f, 0xfd};
constexpr std::array<uint8_t, 4> kLz4LegacyMagic{0x02, 0x21, 0x4c, 0x18};
constexpr size_t kLz4Block = 8u << 20;  // what each block of the legacy frame unpacks to at most
constexpr uint64_t kXzMemoryLimit = 256u << 20;

template <size_t N>
bool starts_with(std::span<const uint8_t> data, const std::array<uint8_t, N>& magic) {
  return data.size() >= N && std::equal(magic.begin(), magic.end(), data.begin());
}

Error broken(std::string_view format) {
  return Error(ErrorKind::kCorrupt, fmt::format("its {} data is damaged or cut short", format));
}

Error too_large(size_t most) {
  return Error(ErrorKind::kNoResource, fmt::format("it unpacks to more than {} MiB", most >> 20));
}

Result<Unpacked> gunzip(std::span<const uint8_t> data, size_t most) {
  z_stream stream{};
  TRY_ASSIGN(Unpacked out, Unpacked::reserve(most));
  if (inflateInit2(&stream, 15 + 16) != Z_OK) return Error(ErrorKind::kNoResource, "zlib cannot start");
  stream.next_in = const_cast<uint8_t*>(data.data());  // zlib reads only
  stream.avail_in = static_cast<uInt>(data.size());
  size_t used = 0;
  int status = Z_OK;
  while (status == Z_OK) {
    const size_t room = out.room() - used;
    if (room == 0) break;
    stream.next_out = out.data() + used;
    stream.avail_out = static_cast<uInt>(std::min<size_t>(room, 1u << 30));
    const uInt before = stream.avail_out;
    status = inflate(&stream, Z_NO_FLUSH);
    used += before - stream.avail_out;
    if (status == Z_BUF_ERROR || (status == Z_OK && stream.avail_in == 0 && stream.avail_out != 0)) break;
  }
  inflateEnd(&stream);
  if (status == Z_OK && used >= most) return too_large(most);
  if (status != Z_STREAM_END) return broken("gzip");
  out.set_size(used);
  return out;
}

Result<Unpacked> unxz(std::span<const uint8_t> data, size_t most) {
  lzma_stream stream = LZMA_STREAM_INIT;
  TRY_ASSIGN(Unpacked out, Unpacked::reserve(most));
  if (lzma_stream_decoder(&stream, kXzMemoryLimit, 0) != LZMA_OK)
    return Error(ErrorKind::kNoResource, "liblzma cannot start");
  stream.next_in = data.data();
  stream.avail_in = data.size();
  size_t used = 0;
  lzma_ret status = LZMA_OK;
  while (status == LZMA_OK) {
    if (used == out.room()) break;
    stream.next_out = out.data() + used;
    stream.avail_out = out.room() - used;
    status = lzma_code(&stream, LZMA_RUN);
    used = out.room() - stream.avail_out;
    if (status == LZMA_OK && stream.avail_in == 0 && stream.avail_out != 0) break;
  }
  lzma_end(&stream);
  if (status == LZMA_OK && used >= most) return too_large(most);
  if (status != LZMA_STREAM_END) return broken("xz");
  out.set_size(used);
  return out;
}

Result<Unpacked> unzstd(std::span<const uint8_t> data, size_t most) {
  TRY_ASSIGN(Unpacked out, Unpacked::reserve(most));
  ZSTD_DStream* stream = ZSTD_createDStream();
  if (stream == nullptr) return Error(ErrorKind::kNoResource, "zstd cannot start");
  ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, 27);
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  size_t used = 0;
  size_t status = 1;  // 0: frame complete
  while (status != 0) {
    if (used == out.room()) break;
    ZSTD_outBuffer to{out.data(), out.room(), used};
    status = ZSTD_decompressStream(stream, &to, &in);
    used = to.pos;
    if (ZSTD_isError(status) || (status != 0 && in.pos == in.size && to.pos < to.size)) break;
  }
  ZSTD_freeDStream(stream);
  if (status == 0) {
    out.set_size(used);
    return out;
  }
  if (!ZSTD_isError(status) && used >= most) return too_large(most);
  return broken("zstd");
}

// The legacy LZ4 frame (lz4 -l), which Linux uses: a magic number, then blocks with their packed size in
// front. It ends with the data, or with what cannot be a block: bzImage appends the unpacked size.
Result<Unpacked> unlz4(std::span<const uint8_t> data, size_t most) {
  TRY_ASSIGN(Unpacked out, Unpacked::reserve(most));
  size_t used = 0;
  data = data.subspan(kLz4LegacyMagic.size());
  while (data.size() > 4) {
    const auto packed = load_le<uint32_t>(data.data());
    data = data.subspan(4);
    if (packed == 0 || packed > data.size() || packed > static_cast<uint32_t>(LZ4_COMPRESSBOUND(kLz4Block)))
      return broken("lz4");
    if (used >= most) return too_large(most);
    const size_t room = std::min(most - used, kLz4Block);
    const int unpacked = LZ4_decompress_safe(reinterpret_cast<const char*>(data.data()),
                                             reinterpret_cast<char*>(out.data() + used),
                                             static_cast<int>(packed), static_cast<int>(room));
    if (unpacked < 0) return room < kLz4Block ? too_large(most) : broken("lz4");
    used += static_cast<size_t>(unpacked);
    data = data.subspan(packed);
  }
  out.set_size(used);
  if (used == 0) return broken("lz4");
  return out;
}

}  // namespace

std::string_view compression_of(std::span<const uint8_t> data) {
  if (starts_with(data, kGzipMagic)) return "gzip";
  if (starts_with(data, kXzMagic)) return "xz";
  if (starts_with(data, kZstdMagic)) return "zstd";
  if (starts_with(data, kLz4LegacyMagic)) return "lz4";
  return "";
}

Result<Unpacked> decompress(std::span<const uint8_t> data, size_t most) {
  const std::string_view format = compression_of(data);
  if (format == "gzip") return gunzip(data, most);
  if (format == "xz") return unxz(data, most);
  if (format == "zstd") return unzstd(data, most);
  if (format == "lz4") return unlz4(data, most);
  return Error(ErrorKind::kUnsupported, "its payload is packed in a way other than gzip, xz, zstd or lz4");
}

}  // namespace ostler::boot
