#include "block/nbd/start_tls.h"

#include <algorithm>

#include "base/assert.h"
#include "block/nbd/protocol.h"

namespace ostler::block::nbd {
namespace {

constexpr uint32_t kError = 1u << 31;
constexpr const char* kNoTls =
    "it has no TLS; leave tls-creds out, or nbds:// for nbd://, if everybody may read along";

Error peer_error(std::string problem) {
  return Error(ErrorKind::kIo, std::move(problem));
}

std::string printable(std::string_view text) {
  std::string result(text);
  std::replace_if(
      result.begin(), result.end(), [](char c) { return c < ' ' || c == 0x7f; }, '?');
  return result;
}

}  // namespace

Result<std::string> StartTls::take(std::string_view bytes) {
  ASSERT(bytes.size() == wanted_, "the caller gives as much as was asked for");
  if (state_ == State::kGreeting) return take_greeting(bytes);
  if (state_ == State::kReply) return take_reply(bytes);
  return peer_error("it refuses TLS: " + printable(bytes));
}

Result<std::string> StartTls::take_greeting(std::string_view bytes) {
  Fields fields(bytes);
  uint64_t init = 0, option = 0;
  if (!fields.take(init) || !fields.take(option) || !fields.take(flags_) || init != kInitMagic)
    return peer_error("there is no NBD server");
  if (option != kOptionMagic || (flags_ & kFixedNewstyle) == 0) return peer_error(kNoTls);
  std::string answer;
  append_be(answer, uint32_t{static_cast<uint16_t>(flags_ & (kFixedNewstyle | kNoZeroes))});
  append_be(answer, kOptionMagic);
  append_be(answer, static_cast<uint32_t>(Option::kStartTls));
  append_be(answer, uint32_t{0});
  state_ = State::kReply;
  wanted_ = kReplyBytes;
  return answer;
}

Result<std::string> StartTls::take_reply(std::string_view bytes) {
  Fields fields(bytes);
  uint64_t magic = 0;
  uint32_t option = 0, type = 0, length = 0;
  if (!fields.take(magic) || !fields.take(option) || !fields.take(type) || !fields.take(length) ||
      magic != kOptionReplyMagic || option != static_cast<uint32_t>(Option::kStartTls))
    return peer_error("it breaks the NBD protocol");
  if (type == static_cast<uint32_t>(OptionReply::kAck) && length == 0) {
    state_ = State::kDone;
    wanted_ = 0;
    return std::string();
  }
  const bool no_tls = type == static_cast<uint32_t>(OptionReply::kErrUnsupported) ||
                      type == static_cast<uint32_t>(OptionReply::kErrPolicy);
  if (no_tls) return peer_error(kNoTls);
  if ((type & kError) == 0 || length > kMostName) return peer_error("it breaks the NBD protocol");
  if (length == 0) return peer_error("it refuses TLS");
  state_ = State::kReason;
  wanted_ = length;
  return std::string();
}

std::string StartTls::greeting() const {
  std::string result;
  append_be(result, kInitMagic);
  append_be(result, kOptionMagic);
  append_be(result, flags_);
  return result;
}

}  // namespace ostler::block::nbd
