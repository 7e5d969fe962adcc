// A client of 9P2000.L for tests: what it says is written out field by field, right or wrong.
//
//     client.call(Type::kLopen, 1u, 0u)  ->  Answer; .error is 0 or the errno of Rlerror
#pragma once

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "fs9p/protocol.h"
#include "fs9p/server.h"

namespace ostler::fs9p::test {

using Bytes = std::vector<std::byte>;

inline void put(Bytes& bytes, std::string_view text);
template <class T>
requires std::is_integral_v<T>
void put(Bytes& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof value);
  store_le(bytes.data() + at, value);
}
inline void put(Bytes& bytes, std::string_view text) {
  put(bytes, static_cast<uint16_t>(text.size()));
  const auto view = std::as_bytes(std::span(text));
  bytes.insert(bytes.end(), view.begin(), view.end());
}
inline void put(Bytes& bytes, const char* text) {
  put(bytes, std::string_view(text));
}
inline void put(Bytes& bytes, const std::string& text) {
  put(bytes, std::string_view(text));
}
inline void put(Bytes& bytes, const Bytes& data) {
  bytes.insert(bytes.end(), data.begin(), data.end());
}

// A whole message of these fields.
template <class... Fields>
Bytes message(Type type, uint16_t tag, const Fields&... fields) {
  Bytes bytes;
  put(bytes, uint32_t{0});
  put(bytes, static_cast<uint8_t>(type));
  put(bytes, tag);
  (put(bytes, fields), ...);
  store_le(bytes.data(), static_cast<uint32_t>(bytes.size()));
  return bytes;
}

struct Answer {
  uint8_t type = 0;
  uint16_t tag = 0;
  int error = 0;
  Bytes body;

  template <class T>
  T get(size_t at) const {
    return load_le<T>(body.data() + at);
  }
  std::string text(size_t at, size_t size) const {
    return std::string(reinterpret_cast<const char*>(body.data()) + at, size);
  }
  // Of Rread.
  std::string data() const { return text(4, get<uint32_t>(0)); }
};

inline Answer parse(const Bytes& bytes) {
  Answer answer;
  answer.type = std::to_integer<uint8_t>(bytes[4]);
  answer.tag = load_le<uint16_t>(bytes.data() + 5);
  answer.body.assign(bytes.begin() + kHeaderBytes, bytes.end());
  if (answer.type == static_cast<uint8_t>(Type::kLerror) + 1)
    answer.error = static_cast<int>(answer.get<uint32_t>(0));
  return answer;
}

inline constexpr uint32_t kRoot = 0;  // fid after Client::mount()
inline constexpr uint32_t kNoFid = ~0u;

class Client {
 public:
  explicit Client(std::shared_ptr<Share> share) : server(std::move(share)) {}

  template <class... Fields>
  Answer call(Type type, const Fields&... fields) {
    return parse(server.answer(message(type, ++tag_, fields...), kMostMessage));
  }
  void mount(uint32_t uid = kNoUser) {
    call(Type::kVersion, uint32_t{65536}, "9P2000.L");
    call(Type::kAttach, kRoot, kNoFid, "root", "", uid);
  }
  // Walks from the root, one name after the other.
  Answer walk(uint32_t fid, std::vector<std::string> names, uint32_t from = kRoot) {
    Bytes all;
    for (const std::string& name : names) put(all, name);
    return call(Type::kWalk, from, fid, static_cast<uint16_t>(names.size()), all);
  }
  Answer open(uint32_t fid, uint32_t flags = 0) { return call(Type::kLopen, fid, flags); }
  Answer write(uint32_t fid, uint64_t offset, std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return call(Type::kWrite, fid, offset, static_cast<uint32_t>(text.size()),
                Bytes(bytes.begin(), bytes.end()));
  }
  Answer read(uint32_t fid, uint64_t offset = 0, uint32_t count = 4096) {
    return call(Type::kRead, fid, offset, count);
  }
  Answer clunk(uint32_t fid) { return call(Type::kClunk, fid); }
  Answer attributes(uint32_t fid) { return call(Type::kGetattr, fid, uint64_t{0x7ff}); }
  // What the guest sees: a mode with its type.
  uint32_t mode(uint32_t fid) { return attributes(fid).get<uint32_t>(8 + 13); }

  Server server;

 private:
  uint16_t tag_ = 0;
};

// A share of a new folder, with a client that has mounted it.
inline std::shared_ptr<Share> open_share(const std::string& path, Security security = Security::kNone,
                                         bool read_only = false) {
  return Share::open({.path = path, .security = security, .read_only = read_only}).value();
}

}  // namespace ostler::fs9p::test
