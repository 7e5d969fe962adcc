// The haggling before transmission (NBD protocol, "Fixed newstyle negotiation"), the server's side: which
// disk, with TLS or not, which extensions. Everything read here is a stranger's.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/nbd/channel.h"
#include "block/nbd/export.h"
#include "block/nbd/protocol.h"
#include "block/nbd/tls_channel.h"

namespace ostler::block::nbd {

using ExportList = std::vector<std::shared_ptr<const Export>>;

// What was agreed on.
struct Session {
  std::shared_ptr<const Export> disk;
  bool structured = false;         // replies in chunks
  std::vector<uint32_t> contexts;  // places in disk->contexts()
};

class Negotiation {
 public:
  // The first of `exports`, which may be none, is the one without a name. With `tls` no client gets further
  // without it. `channel` is what to go on with after run().
  Negotiation(std::unique_ptr<Channel>& channel, Receiver& receiver, ExportList exports,
              const TlsCredentials* tls)
      : channel_(channel), receiver_(receiver), exports_(std::move(exports)), tls_(tls) {}

  // True: transmission begins. False: the client left, broke the protocol, or the connection broke. Limits
  // no time.
  Task<bool> run();
  Session take_session() { return std::move(session_); }
  // With TLS: what lies below the channel, to be kept as long.
  std::unique_ptr<Channel> take_plain() { return std::move(plain_); }

 private:
  enum class Next { kGoOn, kTransmission, kEnd };
  Task<Next> option(Option option, std::string data);
  Task<Next> reply(Option option, OptionReply type, std::string data);
  Task<Next> refuse(Option option, OptionReply type, std::string message);
  Task<Next> export_name(std::string name);
  Task<Next> list(std::string data);
  Task<Next> info(Option option, std::string data);
  Task<Next> start_tls(std::string data);
  Task<Next> meta_context(Option option, std::string data);
  Task<int> send(std::string bytes);
  std::shared_ptr<const Export> find(std::string_view name) const;

  std::unique_ptr<Channel>& channel_;
  Receiver& receiver_;
  const ExportList exports_;
  const TlsCredentials* const tls_;
  std::unique_ptr<Channel> plain_;
  bool secure_ = false;
  bool no_zeroes_ = false;
  std::string contexts_of_;  // the name they were chosen for
  Session session_;
};

}  // namespace ostler::block::nbd
