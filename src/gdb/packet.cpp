#include "gdb/packet.h"

#include <fmt/format.h>

#include "gdb/fields.h"

namespace ostler::gdb {
namespace {

constexpr char kEscape = '}';
constexpr char kFlip = 0x20;
constexpr char kControlC = 3;

}  // namespace

std::string escape(std::string_view data) {
  std::string out;
  out.reserve(data.size());
  for (const char c : data) {
    if (c == '$' || c == '#' || c == '*' || c == kEscape) {
      out += kEscape;
      out += static_cast<char>(c ^ kFlip);
    } else {
      out += c;
    }
  }
  return out;
}

std::string frame(std::string_view data) {
  unsigned sum = 0;
  for (const char c : data) sum += static_cast<unsigned char>(c);
  return fmt::format("${}#{:02x}", data, sum & 0xff);
}

void PacketReader::append(char byte) {
  if (data_.size() < kMostPacket)
    data_ += byte;
  else
    too_long_ = true;
}

PacketReader::Event PacketReader::feed(char byte) {
  // An unescaped '$' begins a packet wherever it comes: the one before was cut short.
  if (byte == '$' && state_ != State::kEscaped) {
    state_ = State::kData;
    data_.clear();
    too_long_ = false;
    sum_ = 0;
    return Event::kNothing;
  }
  switch (state_) {
    case State::kIdle:
      if (byte == '+') return Event::kAck;
      if (byte == '-') return Event::kNak;
      return byte == kControlC ? Event::kInterrupt : Event::kNothing;
    case State::kData:
      if (byte == '#') {
        state_ = State::kChecksum;
        return Event::kNothing;
      }
      sum_ += static_cast<unsigned char>(byte);
      if (byte == kEscape)
        state_ = State::kEscaped;
      else
        append(byte);
      return Event::kNothing;
    case State::kEscaped:
      sum_ += static_cast<unsigned char>(byte);
      append(static_cast<char>(byte ^ kFlip));
      state_ = State::kData;
      return Event::kNothing;
    case State::kChecksum:
      first_digit_ = byte;
      state_ = State::kChecksumEnd;
      return Event::kNothing;
    case State::kChecksumEnd: {
      state_ = State::kIdle;
      const char digits[] = {first_digit_, byte};
      const auto told = from_hex({digits, 2});
      const bool right = told && std::to_integer<unsigned>(told->front()) == (sum_ & 0xff);
      return right && !too_long_ ? Event::kPacket : Event::kDamaged;
    }
  }
  return Event::kNothing;
}

}  // namespace ostler::gdb
