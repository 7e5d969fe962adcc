// 9P2000.L, the protocol of Linux's 9p file system: numbers and small structures. Source: "9P2000.L Protocol"
// (diod's protocol.md), the Plan 9 manual, section 5, for the messages that it keeps.
#pragma once

#include <cstdint>
#include <string_view>

namespace ostler::fs9p {

// Of a request; its reply has the next number.
enum class Type : uint8_t {
  kLerror = 6,  // only the reply exists
  kStatfs = 8,
  kLopen = 12,
  kLcreate = 14,
  kSymlink = 16,
  kMknod = 18,
  kRename = 20,
  kReadlink = 22,
  kGetattr = 24,
  kSetattr = 26,
  kXattrwalk = 30,
  kXattrcreate = 32,
  kReaddir = 40,
  kFsync = 50,
  kLock = 52,
  kGetlock = 54,
  kLink = 70,
  kMkdir = 72,
  kRenameat = 74,
  kUnlinkat = 76,
  kVersion = 100,
  kAuth = 102,
  kAttach = 104,
  kFlush = 108,
  kWalk = 110,
  kRead = 116,
  kWrite = 118,
  kClunk = 120,
  kRemove = 122,
};

inline constexpr std::string_view kVersionName = "9P2000.L";
inline constexpr uint32_t kHeaderBytes = 7;      // size[4] type[1] tag[2]
inline constexpr uint32_t kErrorBytes = 11;      // Rlerror
inline constexpr uint32_t kReadHeadBytes = 11;   // Rread and Rreaddir before their data
inline constexpr uint32_t kLeastMessage = 4096;  // the smallest msize: room for every reply but data
inline constexpr uint32_t kMostMessage = 512 * 1024;
inline constexpr uint16_t kMostNames = 16;  // of one Twalk
inline constexpr uint32_t kNoUser = ~0u;    // n_uname that was not told

struct Qid {
  static constexpr uint8_t kDirectory = 0x80, kSymlink = 0x02, kFile = 0;
  uint8_t type = kFile;
  uint32_t version = 0;
  uint64_t path = 0;
};

// Flags of Tlopen and Tlcreate: those of open(2) on x86.
namespace open_flags {
inline constexpr uint32_t kAccess = 3, kWriteOnly = 1, kReadWrite = 2;
inline constexpr uint32_t kExclusive = 0200, kTruncate = 01000, kAppend = 02000, kDataSync = 010000;
inline constexpr uint32_t kDirectory = 0200000, kSync = 04000000;
}  // namespace open_flags

inline constexpr uint32_t kRemoveDirectory = 0x200;  // Tunlinkat
inline constexpr uint64_t kBasicAttributes = 0x7ff, kBirthTime = 0x800;

// What Tsetattr changes.
namespace set {
inline constexpr uint32_t kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAtime = 0x10, kMtime = 0x20;
inline constexpr uint32_t kAtimeGiven = 0x80, kMtimeGiven = 0x100;
}  // namespace set

enum class LockType : uint8_t { kRead = 0, kWrite = 1, kUnlock = 2 };
enum class LockStatus : uint8_t { kSuccess = 0, kBlocked = 1, kError = 2 };

}  // namespace ostler::fs9p
