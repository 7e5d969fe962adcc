#include "fs9p/server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ostler::fs9p {

// version(5): what was under way goes on in the session that it began in, whose fids nobody can name any
// more.
std::vector<std::byte> Server::agree(const Version& version, uint16_t tag, size_t room) {
  if (version.msize < kLeastMessage) return Reply::failure(tag, EINVAL).finish();
  const uint32_t msize = std::min(version.msize, kMostMessage);
  const bool known = version.version == kVersionName;
  std::shared_ptr<Session> session;
  if (known) session = std::make_shared<Session>(share_, msize);
  {
    const std::lock_guard lock(mutex_);
    session_.swap(session);
  }
  session.reset();  // closes what was open, without the lock
  Reply reply(Type::kVersion, tag, room);
  reply << msize << (known ? kVersionName : std::string_view("unknown"));
  return std::move(reply).finish();
}

std::vector<std::byte> Server::answer(std::span<const std::byte> message, size_t room) {
  const Header header = parse_header(message);
  const auto request = parse_request(message);
  if (!request) return Reply::failure(header.tag, EINVAL).finish();
  std::vector<std::byte> bytes;
  if (const auto* version = std::get_if<Version>(&*request)) {
    bytes = agree(*version, header.tag, room);
  } else if (std::holds_alternative<Flush>(*request)) {
    bytes = Reply(Type::kFlush, header.tag, room).finish();
  } else {
    std::shared_ptr<Session> session;
    {
      const std::lock_guard lock(mutex_);
      session = session_;
    }
    if (session == nullptr) return Reply::failure(header.tag, EPROTO).finish();
    if (message.size() > session->msize()) return Reply::failure(header.tag, EMSGSIZE).finish();
    Reply reply(static_cast<Type>(header.type), header.tag, room);
    const int error = session->serve(*request, reply);
    bytes = error == 0 ? std::move(reply).finish() : Reply::failure(header.tag, error).finish();
  }
  if (bytes.size() > room) return Reply::failure(header.tag, EMSGSIZE).finish();
  return bytes;
}

bool Server::mounted() {
  std::shared_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    session = session_;
  }
  return session != nullptr && session->mounted();
}

}  // namespace ostler::fs9p
