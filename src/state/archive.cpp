// The stream format, little-endian throughout:
//
//   section   hash(name):4  0xfe  version:4
//   number    hash(name):4  size:1 (1, 2, 4, 8)  value:size
//   bytes     hash(name):4  0xff  length:4  data
//
// The hashes make a field that moved or changed its name an error at that field, not nonsense three fields
// later.
#include "state/archive.h"

#include <fmt/format.h>

#include <cstring>

#include "base/bytes.h"

namespace ostler::state {
namespace {

constexpr uint8_t kSectionTag = 0xfe;
constexpr uint8_t kBytesTag = 0xff;

// FNV-1a, 32 bits.
uint32_t hash(std::string_view name) {
  uint32_t value = 2166136261u;
  for (const char c : name) value = (value ^ static_cast<uint8_t>(c)) * 16777619u;
  return value;
}

}  // namespace

void Archive::section(std::string_view name, uint32_t version) {
  if (failed()) return;
  section_ = name;
  version_ = version;
  begin(name, version_);
  if (loading_ && version_ > version)
    fail(fmt::format("version {} is newer than this program's {}", version_, version));
}

void Archive::bytes(std::string_view name, std::span<std::byte> value) {
  if (!failed()) raw(name, value);
}

void Archive::field(std::string_view name, std::string& value, size_t most) {
  uint64_t size = value.size();
  number(name, size, 4);
  if (loading_) {
    check(size <= most, name);
    value.resize(failed() ? 0 : static_cast<size_t>(size));
  }
  bytes(name, std::as_writable_bytes(std::span(value.data(), value.size())));
}

void Archive::check(bool holds, std::string_view what) {
  if (loading_ && !holds) fail(fmt::format("'{}' has an impossible value", what));
}

void Archive::fail(std::string_view what) {
  if (failed()) return;  // the first reason is the useful one
  error_ = section_.empty() ? std::string(what) : fmt::format("{}: {}", section_, what);
}

void Saver::put(const void* data, size_t size) {
  const auto* from = static_cast<const std::byte*>(data);
  out_.insert(out_.end(), from, from + size);
}

void Saver::begin(std::string_view name, uint32_t& version) {
  const uint32_t tag = hash(name);
  put(&tag, sizeof tag);
  put(&kSectionTag, 1);
  put(&version, sizeof version);
}

void Saver::number(std::string_view name, uint64_t& value, unsigned size) {
  const uint32_t tag = hash(name);
  const auto length = static_cast<uint8_t>(size);
  put(&tag, sizeof tag);
  put(&length, 1);
  put(&value, size);
}

void Saver::raw(std::string_view name, std::span<std::byte> value) {
  const uint32_t tag = hash(name);
  const auto length = static_cast<uint32_t>(value.size());
  put(&tag, sizeof tag);
  put(&kBytesTag, 1);
  put(&length, sizeof length);
  put(value.data(), value.size());
}

// False, with nothing consumed, when fewer than `size` bytes are left.
bool Loader::get(void* data, size_t size) {
  if (size > in_.size()) return false;
  if (size != 0) std::memcpy(data, in_.data(), size);
  in_ = in_.subspan(size);
  return true;
}

bool Loader::expect(std::string_view name, uint8_t tag) {
  uint32_t found_name = 0;
  uint8_t found_tag = 0;
  if (failed()) return false;
  if (!get(&found_name, sizeof found_name) || !get(&found_tag, 1)) {
    fail(fmt::format("the stream ends before '{}'", name));
    return false;
  }
  if (found_name != hash(name) || found_tag != tag) {
    fail(fmt::format("the stream holds something else where '{}' belongs", name));
    return false;
  }
  return true;
}

void Loader::begin(std::string_view name, uint32_t& version) {
  if (!expect(name, kSectionTag)) return;
  if (!get(&version, sizeof version)) fail("the stream ends within the section's head");
}

void Loader::number(std::string_view name, uint64_t& value, unsigned size) {
  value = 0;
  if (!expect(name, static_cast<uint8_t>(size))) return;
  if (!get(&value, size)) fail(fmt::format("the stream ends within '{}'", name));
}

void Loader::raw(std::string_view name, std::span<std::byte> value) {
  uint32_t length = 0;
  if (!expect(name, kBytesTag)) return;
  if (!get(&length, sizeof length) || length != value.size() || !get(value.data(), value.size()))
    fail(fmt::format("'{}' has a wrong length", name));
}

Result<void> Loader::finish() {
  if (!failed() && !in_.empty()) fail(fmt::format("{} bytes follow the last field", in_.size()));
  if (failed()) return Error(ErrorKind::kCorrupt, "saved state: " + error());
  return {};
}

}  // namespace ostler::state
