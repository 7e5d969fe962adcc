// Requests of 9P2000.L that bytes of a generator or a fuzzer choose: mostly of few fids and names, so that
// they have to do with each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "fs9p/protocol.h"

namespace ostler::rigs {

// `byte()` gives the next choice.
template <class Byte>
class P9Requests {
 public:
  explicit P9Requests(Byte byte) : byte_(byte) {}

  // A whole message; now and then one whose size or last field is wrong.
  std::vector<std::byte> next() {
    using fs9p::Type;
    static constexpr Type kTypes[] = {Type::kVersion,  Type::kAttach,      Type::kWalk,    Type::kLopen,
                                      Type::kLcreate,  Type::kSymlink,     Type::kMknod,   Type::kRename,
                                      Type::kReadlink, Type::kGetattr,     Type::kSetattr, Type::kXattrwalk,
                                      Type::kWalk,     Type::kXattrcreate, Type::kReaddir, Type::kFsync,
                                      Type::kLock,     Type::kGetlock,     Type::kLink,    Type::kMkdir,
                                      Type::kRenameat, Type::kUnlinkat,    Type::kFlush,   Type::kRead,
                                      Type::kWrite,    Type::kClunk,       Type::kRemove,  Type::kStatfs,
                                      Type::kWalk,     Type::kAttach,      Type::kLcreate, Type::kAuth};
    bytes_.assign(fs9p::kHeaderBytes, std::byte{0});
    const uint8_t choice = byte_();
    const Type type = kTypes[choice % 32];
    body(type);
    if (choice == 0xe0) bytes_.pop_back();
    store_le(bytes_.data(), static_cast<uint32_t>(bytes_.size()));
    bytes_[4] = static_cast<std::byte>(type);
    store_le(bytes_.data() + 5, static_cast<uint16_t>(byte_() % 16));
    return bytes_;
  }

 private:
  template <class T>
  void put(T value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store_le(bytes_.data() + at, value);
  }
  void text(std::string_view text) {
    put(static_cast<uint16_t>(text.size()));
    for (const char each : text) put(each);
  }
  void fid() { put(uint32_t{byte_()} % 8); }
  void name() {
    static constexpr std::string_view kNames[] = {"a", "b", "c", "..", "a/b", "", ".", "secret"};
    const uint8_t choice = byte_();
    text(kNames[choice < 128 ? choice % 4 : choice % 8]);
  }
  void xattr() { text(byte_() % 4 == 0 ? "" : "user.x"); }
  // Mostly small, as offsets, sizes and modes are; sometimes at an end of its range.
  template <class T>
  void number() {
    const uint8_t choice = byte_();
    put(choice == 255 ? static_cast<T>(~T{0}) : static_cast<T>(choice < 128 ? choice : choice * 37u));
  }
  template <class... T>
  void numbers() {
    (number<T>(), ...);
  }

  void body(fs9p::Type type) {
    using fs9p::Type;
    switch (type) {
      case Type::kVersion:
        put(uint32_t{byte_()} * 512);
        return text(byte_() % 16 == 0 ? "9P2000" : "9P2000.L");
      case Type::kAttach:
        fid();
        put(~uint32_t{0});
        text("");
        text("");
        return put(~uint32_t{0});
      case Type::kWalk: {
        fid();
        fid();
        const uint16_t count = byte_() % 4;
        put(count);
        for (unsigned i = 0; i < count; ++i) name();
        return;
      }
      case Type::kLopen:
        fid();
        return put(uint32_t{byte_()} % 4 | (byte_() % 8 == 0 ? fs9p::open_flags::kTruncate : 0));
      case Type::kLcreate:
        fid();
        name();
        put(uint32_t{byte_()} % 4 | (byte_() % 4 == 0 ? fs9p::open_flags::kExclusive : 0));
        return numbers<uint32_t, uint32_t>();
      case Type::kSymlink:
        fid();
        name();
        name();
        return number<uint32_t>();
      case Type::kMknod:
        fid();
        name();
        put(uint32_t{byte_() % 16u} << 12 | byte_());
        return numbers<uint32_t, uint32_t, uint32_t>();
      case Type::kRename:
        fid();
        fid();
        return name();
      case Type::kReadlink:
      case Type::kStatfs:
      case Type::kClunk:
      case Type::kRemove:
        return fid();
      case Type::kGetattr:
        fid();
        return number<uint64_t>();
      case Type::kSetattr:
        fid();
        put(uint32_t{byte_()} | uint32_t{byte_()} << 8);
        return numbers<uint32_t, uint32_t, uint32_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t>();
      case Type::kXattrwalk:
        fid();
        fid();
        return xattr();
      case Type::kXattrcreate:
        fid();
        xattr();
        put(uint64_t{byte_()} % 8);
        return put(uint32_t{byte_()} % 4);
      case Type::kReaddir:
      case Type::kRead:
        fid();
        return numbers<uint64_t, uint32_t>();
      case Type::kFsync:
        fid();
        return number<uint32_t>();
      case Type::kLock:
        fid();
        put(static_cast<uint8_t>(byte_() % 4));
        numbers<uint32_t, uint64_t, uint64_t, uint32_t>();
        return text("guest");
      case Type::kGetlock:
        fid();
        put(static_cast<uint8_t>(byte_() % 4));
        numbers<uint64_t, uint64_t, uint32_t>();
        return text("guest");
      case Type::kLink:
        fid();
        fid();
        return name();
      case Type::kMkdir:
        fid();
        name();
        return numbers<uint32_t, uint32_t>();
      case Type::kRenameat:
        fid();
        name();
        fid();
        return name();
      case Type::kUnlinkat:
        fid();
        name();
        return put(byte_() % 2 == 0 ? 0u : fs9p::kRemoveDirectory);
      case Type::kWrite: {
        fid();
        number<uint64_t>();
        const uint32_t count = byte_() % 32;
        put(count);
        for (uint32_t i = 0; i < count; ++i) put(uint8_t{0x5a});
        return;
      }
      case Type::kFlush:
        return put(static_cast<uint16_t>(byte_() % 16));
      case Type::kAuth:
      case Type::kLerror:
        return number<uint64_t>();
    }
  }

  Byte byte_;
  std::vector<std::byte> bytes_;
};

// Requests that mount: fid 0 is the root then.
inline std::vector<std::byte> p9_version() {
  unsigned at = 0;
  const uint8_t choices[] = {0, 64, 1, 0};
  return P9Requests([&] { return choices[at++]; }).next();
}
inline std::vector<std::byte> p9_attach() {
  unsigned at = 0;
  const uint8_t choices[] = {1, 0, 0};
  return P9Requests([&] { return choices[at++]; }).next();
}

}  // namespace ostler::rigs
