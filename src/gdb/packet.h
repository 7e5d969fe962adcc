// Packets of the remote serial protocol: "$data#checksum" with '}' escapes (Debugging with GDB, §E.1).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ostler::gdb {

// The longest packet in either direction, without frame: what qSupported tells.
inline constexpr size_t kMostPacket = 16 * 1024;

// What has to be escaped in binary data: "$#*}" become '}' and the character xor 0x20.
std::string escape(std::string_view data);
// A whole packet around data that is already escaped.
std::string frame(std::string_view data);

// Takes a byte stream apart. Holds at most one packet.
class PacketReader {
 public:
  enum class Event {
    kNothing,    // in the middle of something
    kPacket,     // packet() is complete
    kDamaged,    // a packet with a wrong checksum, or one that is too long
    kInterrupt,  // Ctrl-C
    kAck,
    kNak,
  };
  Event feed(char byte);
  const std::string& packet() const { return data_; }  // unescaped; until the next feed()

 private:
  enum class State { kIdle, kData, kEscaped, kChecksum, kChecksumEnd };
  void append(char byte);

  State state_ = State::kIdle;
  std::string data_;
  bool too_long_ = false;
  unsigned sum_ = 0;
  char first_digit_ = 0;
};

}  // namespace ostler::gdb
