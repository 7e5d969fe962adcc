// Registers, bits and commands of ATA and ATAPI devices (ATA/ATAPI-7 volume 1, ACS-2; the clauses are named
// where they decide something).
#pragma once

#include <cstdint>

namespace ostler::ide {

inline constexpr uint32_t kSector = 512;

// Offsets in the command block.
enum class Register : uint8_t {
  kData = 0,
  kFeatures = 1,  // read: error
  kCount = 2,     // ATAPI: interrupt reason
  kLow = 3,
  kMid = 4,  // ATAPI: byte count
  kHigh = 5,
  kDevice = 6,
  kCommand = 7,  // read: status
};

namespace status {
inline constexpr uint8_t kError = 0x01;  // ATAPI: check condition
inline constexpr uint8_t kDataRequest = 0x08;
inline constexpr uint8_t kSeekDone = 0x10;
inline constexpr uint8_t kDeviceFault = 0x20;
inline constexpr uint8_t kReady = 0x40;
inline constexpr uint8_t kBusy = 0x80;
}  // namespace status

namespace error {
inline constexpr uint8_t kAborted = 0x04;
inline constexpr uint8_t kNotFound = 0x10;
inline constexpr uint8_t kUncorrectable = 0x40;
}  // namespace error

namespace device {
inline constexpr uint8_t kSecond = 0x10;
inline constexpr uint8_t kLba = 0x40;
}  // namespace device

namespace control {
inline constexpr uint8_t kNoInterrupt = 0x02;
inline constexpr uint8_t kSoftwareReset = 0x04;
inline constexpr uint8_t kHighOrder = 0x80;
}  // namespace control

// The ATAPI interrupt reason.
namespace reason {
inline constexpr uint8_t kCommand = 1;  // of a packet, or the end of a command; not data
inline constexpr uint8_t kToGuest = 2;
}  // namespace reason

enum class Command : uint8_t {
  kNop = 0x00,
  kDataSetManagement = 0x06,
  kDeviceReset = 0x08,
  kReadSectors = 0x20,
  kReadSectorsOld = 0x21,
  kReadSectorsExt = 0x24,
  kReadDmaExt = 0x25,
  kReadNativeMaxExt = 0x27,
  kReadMultipleExt = 0x29,
  kWriteSectors = 0x30,
  kWriteSectorsOld = 0x31,
  kWriteSectorsExt = 0x34,
  kWriteDmaExt = 0x35,
  kWriteMultipleExt = 0x39,
  kWriteDmaFuaExt = 0x3d,
  kVerify = 0x40,
  kVerifyOld = 0x41,
  kVerifyExt = 0x42,
  kDiagnostic = 0x90,
  kInitializeParameters = 0x91,
  kPacket = 0xa0,
  kIdentifyPacket = 0xa1,
  kSmart = 0xb0,
  kReadMultiple = 0xc4,
  kWriteMultiple = 0xc5,
  kSetMultiple = 0xc6,
  kReadDma = 0xc8,
  kReadDmaOld = 0xc9,
  kWriteDma = 0xca,
  kWriteDmaOld = 0xcb,
  kWriteMultipleFuaExt = 0xce,
  kStandbyImmediate = 0xe0,
  kIdleImmediate = 0xe1,
  kStandby = 0xe2,
  kIdle = 0xe3,
  kReadBuffer = 0xe4,
  kCheckPowerMode = 0xe5,
  kSleep = 0xe6,
  kFlush = 0xe7,
  kWriteBuffer = 0xe8,
  kFlushExt = 0xea,
  kIdentify = 0xec,
  kSetFeatures = 0xef,
  kReadNativeMax = 0xf8,
};

}  // namespace ostler::ide
