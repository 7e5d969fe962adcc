// A vhost-user back end in this process, with its own mappings of what it is sent. It keeps the rules, but
// for one message type that a test chooses. The test serves the rings.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "devices/virtio/vhost_user/messages.h"

namespace ostler::virtio::vhost_user::test {

// What it does when the chosen message comes.
enum class Sin {
  kNone,
  kClose,
  kSilence,
  kWrongType,
  kNoReplyFlag,
  kWrongVersion,
  kShortReply,
  kHugeReply,
  kHalfReply,   // and then the end
  kRefuse,      // where it acknowledges
  kOtherIndex,  // where the reply names a ring
  kSpeakFirst,  // says that its configuration has changed, and answers once that is acknowledged
  kFlood,       // says so until nobody hears it, and never answers
};

class FakeBackEnd {
 public:
  struct Options {
    uint64_t features = uint64_t{1} << 32 | uint64_t{1} << VHOST_USER_F_PROTOCOL_FEATURES;
    uint64_t protocol = 1u << VHOST_USER_PROTOCOL_F_MQ | 1u << VHOST_USER_PROTOCOL_F_REPLY_ACK |
                        1u << VHOST_USER_PROTOCOL_F_CONFIG;
    uint64_t queues = 8;
    std::vector<uint8_t> config = {};
    Request sinful{};
    Sin sin = Sin::kNone;
  };
  struct Chain {
    uint16_t head = 0;
    std::string readable;
    std::vector<std::pair<std::byte*, uint32_t>> writable;
  };

  explicit FakeBackEnd(Options options);
  // It connects to `path`, again whenever it is hung up on.
  FakeBackEnd(Options options, std::string path);
  ~FakeBackEnd();

  const std::string& path() const { return path_; }
  void hang_up();                   // and waits for the next front end
  void stop_listening();            // nobody can come any more
  void set(Options options);        // for the next connection
  std::vector<Request> requests();  // all that came
  // Waits until `count` of one type have come, on any connection.
  void await(Request request, size_t count = 1);

  // A ring that was started, as the back end sees it.
  bool started(unsigned index);
  bool enabled(unsigned index);
  uint64_t kicks(unsigned index);  // since last asked
  std::optional<Chain> pop(unsigned index);
  void push(unsigned index, uint32_t head, uint32_t length);  // and calls
  void claim_used(unsigned index, uint16_t used);             // writes the used index
  void call(unsigned index);
  size_t regions();
  // What the guest has at an address; null: it is in no region.
  std::byte* guest(uint64_t address);
  uint64_t set_features();  // as last set
  // By itself, to the front end.
  void say(uint32_t request, uint32_t flags = kVersion, std::vector<uint8_t> payload = {});
  // Has another configuration from now on.
  void set_config(std::vector<uint8_t> config);

 private:
  struct Region {
    MemoryRegion region;
    std::byte* host;
  };
  struct Ring {
    uint32_t size = 0;
    VringAddress address{};
    Fd kick, call;
    bool enabled = false, started = false;
    uint16_t available = 0, used = 0;
  };
  void run();
  Fd next();  // a front end; none: it is time to end
  bool serve_one(int socket);
  void say_locked(uint32_t request, uint32_t flags, const std::vector<uint8_t>& payload);
  bool reply(int socket, const Header& header, std::vector<uint8_t> payload);
  void unmap_locked();
  std::byte* user_locked(uint64_t address);
  std::byte* guest_locked(uint64_t address);

  std::string folder_, path_;  // no folder: it connects
  Fd listener_, stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Options options_;
  uint64_t protocol_ = 0, set_features_ = 0;
  int socket_ = -1;
  Fd own_requests_;
  std::vector<Request> requests_;
  std::vector<Region> regions_;
  std::map<unsigned, Ring> rings_;
  std::thread thread_;
};

}  // namespace ostler::virtio::vhost_user::test
