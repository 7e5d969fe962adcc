// Numbers of the NBD protocol: doc/proto.md of the NBD project. All fields are big-endian.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace ostler::block::nbd {

// "Fixed newstyle negotiation"
inline constexpr uint64_t kInitMagic = 0x4e42444d41474943;    // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
inline constexpr uint16_t kFixedNewstyle = 1, kNoZeroes = 2;

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
};

// "Option reply types"; errors have the top bit.
enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrUnsupported = (1u << 31) + 1,
  kErrPolicy = (1u << 31) + 2,
  kErrInvalid = (1u << 31) + 3,
  kErrTlsRequired = (1u << 31) + 5,
  kErrUnknown = (1u << 31) + 6,
  kErrTooBig = (1u << 31) + 9,
};

enum class Info : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

// "Transmission flags"
inline constexpr uint16_t kHasFlags = 1 << 0, kReadOnly = 1 << 1, kSendFlush = 1 << 2, kSendFua = 1 << 3,
                          kSendTrim = 1 << 5, kSendWriteZeroes = 1 << 6, kSendDf = 1 << 7,
                          kCanMultiConn = 1 << 8, kSendCache = 1 << 10, kSendFastZero = 1 << 11;

// "Transmission"
inline constexpr uint32_t kRequestMagic = 0x25609513, kSimpleReplyMagic = 0x67446698,
                          kStructuredReplyMagic = 0x668e33ef;

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

// "Command flags"
inline constexpr uint16_t kFlagFua = 1 << 0, kFlagNoHole = 1 << 1, kFlagDf = 1 << 2, kFlagReqOne = 1 << 3,
                          kFlagFastZero = 1 << 4;

// "Structured reply types"
inline constexpr uint16_t kReplyFlagDone = 1;
enum class Chunk : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kError = (1 << 15) + 1,
};

// "Metadata contexts"
inline constexpr uint32_t kStateHole = 1, kStateZero = 2;  // of base:allocation
inline constexpr uint32_t kStateDirty = 1;                 // of qemu:dirty-bitmap:NAME

// "Error values"
inline constexpr uint32_t kErrorPerm = 1, kErrorIo = 5, kErrorNoMem = 12, kErrorInvalid = 22,
                          kErrorNoSpace = 28, kErrorOverflow = 75, kErrorNotSupported = 95,
                          kErrorShutdown = 108;

inline constexpr uint16_t kDefaultPort = 10809;
inline constexpr size_t kMostName = 4096;             // bytes of any string
inline constexpr uint32_t kMostTransfer = 32u << 20;  // bytes of one read or write

template <class T>
T swap_bytes(T value) {
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
}
template <class T>
T load_be(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return swap_bytes(value);
}
template <class T>
void append_be(std::string& to, T value) {
  const T swapped = swap_bytes(value);
  to.append(reinterpret_cast<const char*>(&swapped), sizeof swapped);
}

// Takes fields from the front of a message; each says whether there was enough.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : left_(bytes) {}
  template <class T>
  bool take(T& value) {
    if (left_.size() < sizeof value) return false;
    value = load_be<T>(left_.data());
    left_.remove_prefix(sizeof value);
    return true;
  }
  // A string with its length in front, kMostName at most.
  bool take_string(std::string& value) {
    uint32_t length = 0;
    if (!take(length) || length > left_.size() || length > kMostName) return false;
    value = left_.substr(0, length);
    left_.remove_prefix(length);
    return true;
  }
  size_t size() const { return left_.size(); }

 private:
  std::string_view left_;
};

}  // namespace ostler::block::nbd
