#include "block/formats/mapped/image_file.h"

#include <fmt/format.h>

#include <random>

namespace ostler::block {

Task<Result<void>> read_image(Node& file, uint64_t offset, void* to, size_t bytes) {
  const int error = co_await read_bytes(file, offset, to, bytes);
  if (error != 0)
    co_return errno_error(fmt::format("{} cannot be read at offset {}", file.filename(), offset), -error);
  co_return Result<void>();
}

Task<Result<void>> write_image(Node& file, uint64_t offset, const void* from, size_t bytes) {
  const int error = co_await write_bytes(file, offset, from, bytes);
  if (error != 0)
    co_return errno_error(fmt::format("{} cannot be written at offset {}", file.filename(), offset), -error);
  co_return Result<void>();
}

Task<Result<void>> zero_image(Node& file, uint64_t offset, uint64_t bytes) {
  const ZeroFlags flags = {.may_unmap = true};
  const int error = co_await write_zeroes_anyhow(file, offset, bytes, flags);
  if (error != 0)
    co_return errno_error(fmt::format("{} cannot be written at offset {}", file.filename(), offset), -error);
  co_return Result<void>();
}

Task<Result<void>> flush_image(Node& file) {
  const int error = co_await file.flush();
  if (error != 0) co_return errno_error(file.filename() + " cannot be flushed", -error);
  co_return Result<void>();
}

Error damaged(const Node& file, std::string_view what, std::string_view problem) {
  return Error(ErrorKind::kCorrupt,
               fmt::format("{} is not a valid {} image: {}", file.filename(), what, problem));
}

Error cannot(const Node& file, std::string_view what, std::string_view problem) {
  return Error(ErrorKind::kUnsupported,
               fmt::format("{} cannot be opened as {}: {}", file.filename(), what, problem));
}

Uuid random_uuid() {
  std::random_device source;
  Uuid uuid;
  for (uint8_t& byte : uuid) byte = static_cast<uint8_t>(source());
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);  // RFC 4122 §4.4
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

}  // namespace ostler::block
