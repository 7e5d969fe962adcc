#include "vhost_user/fake_back_end.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

namespace ostler::virtio::vhost_user::test {
namespace {

template <class T>
T object(const std::vector<uint8_t>& payload, size_t at = 0) {
  T value{};
  if (payload.size() >= at + sizeof value) std::memcpy(&value, payload.data() + at, sizeof value);
  return value;
}

template <class T>
std::vector<uint8_t> bytes(const T& value) {
  std::vector<uint8_t> out(sizeof value);
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

bool read_all(int socket, void* to, size_t size) {
  return size == 0 || ::recv(socket, to, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

// A message, with its descriptors.
bool receive(int socket, Header& header, std::vector<uint8_t>& payload, std::vector<Fd>& descriptors) {
  iovec piece{&header, sizeof header};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(8 * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(sizeof header))
    return false;
  for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
    const size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(each) + i * sizeof(int), sizeof descriptor);
      descriptors.emplace_back(descriptor);
    }
  }
  payload.resize(header.size);
  return read_all(socket, payload.data(), payload.size());
}

}  // namespace

FakeBackEnd::FakeBackEnd(Options options) : stop_(::eventfd(0, EFD_CLOEXEC)), options_(std::move(options)) {
  std::string folder = "/tmp/ostler-vhost-user-XXXXXX";
  folder_ = ::mkdtemp(folder.data());
  path_ = folder_ + "/socket";
  listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path_.data(), path_.size());
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
      ::listen(listener_.get(), 4) != 0)
    std::abort();
  thread_ = std::thread([this] { run(); });
}

FakeBackEnd::FakeBackEnd(Options options, std::string path)
    : path_(std::move(path)), stop_(::eventfd(0, EFD_CLOEXEC)), options_(std::move(options)) {
  thread_ = std::thread([this] { run(); });
}

FakeBackEnd::~FakeBackEnd() {
  const uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof one) != sizeof one) std::abort();
  hang_up();
  thread_.join();
  const std::lock_guard lock(mutex_);
  unmap_locked();
  if (folder_.empty()) return;
  ::unlink(path_.c_str());
  ::rmdir(folder_.c_str());
}

void FakeBackEnd::hang_up() {
  const std::lock_guard lock(mutex_);
  if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
}

void FakeBackEnd::stop_listening() {
  ::unlink(path_.c_str());
}

void FakeBackEnd::set(Options options) {
  const std::lock_guard lock(mutex_);
  options_ = std::move(options);
}

std::vector<Request> FakeBackEnd::requests() {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void FakeBackEnd::await(Request request, size_t count) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return static_cast<size_t>(std::count(requests_.begin(), requests_.end(), request)) >= count;
  });
}

Fd FakeBackEnd::next() {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path_.data(), path_.size());
  for (;;) {
    std::array<pollfd, 2> waits = {{{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}}};
    if (::poll(waits.data(), folder_.empty() ? 1 : 2, folder_.empty() ? 1 : -1) < 0) continue;
    if (waits[0].revents != 0) return Fd();
    if (!folder_.empty()) {
      if (Fd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)}) return socket;
      continue;
    }
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0) return socket;
  }
}

void FakeBackEnd::run() {
  while (const Fd socket = next()) {
    {
      const std::lock_guard lock(mutex_);
      socket_ = socket.get();
      protocol_ = 0;
    }
    while (serve_one(socket.get())) {
    }
    const std::lock_guard lock(mutex_);
    socket_ = -1;
    own_requests_.reset();
    rings_.clear();
    unmap_locked();
  }
}

bool FakeBackEnd::serve_one(int socket) {
  using enum Request;
  Header header{};
  std::vector<uint8_t> payload;
  std::vector<Fd> descriptors;
  if (!receive(socket, header, payload, descriptors)) return false;
  const auto request = static_cast<Request>(header.request);
  const std::lock_guard lock(mutex_);
  std::optional<std::vector<uint8_t>> answer;
  switch (request) {
    case VHOST_USER_GET_FEATURES:
      answer = bytes(options_.features);
      break;
    case VHOST_USER_SET_FEATURES:
      set_features_ = object<uint64_t>(payload);
      break;
    case VHOST_USER_GET_PROTOCOL_FEATURES:
      answer = bytes(options_.protocol);
      break;
    case VHOST_USER_SET_PROTOCOL_FEATURES:
      protocol_ = object<uint64_t>(payload);
      break;
    case VHOST_USER_GET_QUEUE_NUM:
      answer = bytes(options_.queues);
      break;
    case VHOST_USER_SET_MEM_TABLE: {
      unmap_locked();
      const auto count = object<uint32_t>(payload);
      for (uint32_t i = 0; i < count && i < descriptors.size(); ++i) {
        const auto region = object<MemoryRegion>(payload, 8 + i * sizeof(MemoryRegion));
        void* host = ::mmap(nullptr, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[i].get(),
                            static_cast<off_t>(region.mmap_offset));
        if (host != MAP_FAILED) regions_.push_back({region, static_cast<std::byte*>(host)});
      }
      break;
    }
    case VHOST_USER_SET_VRING_NUM:
      rings_[object<VringState>(payload).index].size = object<VringState>(payload).num;
      break;
    case VHOST_USER_SET_VRING_ADDR: {
      Ring& ring = rings_[object<VringAddress>(payload).index];
      ring.address = object<VringAddress>(payload);
      // As back ends do: they go on where the used index is.
      if (const auto* used = reinterpret_cast<const uint16_t*>(user_locked(ring.address.used)))
        ring.used = __atomic_load_n(used + 1, __ATOMIC_ACQUIRE);
    } break;
    case VHOST_USER_SET_VRING_BASE:
      rings_[object<VringState>(payload).index].available =
          static_cast<uint16_t>(object<VringState>(payload).num);
      break;
    case VHOST_USER_SET_VRING_KICK:
      if (!descriptors.empty()) {
        Ring& ring = rings_[object<uint64_t>(payload) & 0xff];
        ring.kick = std::move(descriptors[0]);
        ring.started = true;
      }
      break;
    case VHOST_USER_SET_VRING_CALL:
      if (!descriptors.empty()) rings_[object<uint64_t>(payload) & 0xff].call = std::move(descriptors[0]);
      break;
    case VHOST_USER_SET_VRING_ENABLE:
      rings_[object<VringState>(payload).index].enabled = object<VringState>(payload).num != 0;
      break;
    case VHOST_USER_GET_VRING_BASE: {
      const unsigned index = object<VringState>(payload).index;
      const bool other = options_.sinful == request && options_.sin == Sin::kOtherIndex;
      answer = bytes(VringState{index + (other ? 1 : 0), rings_[index].available});
      rings_.erase(index);
      break;
    }
    case VHOST_USER_SET_BACKEND_REQ_FD:
      if (!descriptors.empty()) own_requests_ = std::move(descriptors[0]);
      break;
    case VHOST_USER_GET_CONFIG: {
      answer = payload;
      for (size_t i = 0; i + sizeof(ConfigHeader) < answer->size() && i < options_.config.size(); ++i)
        (*answer)[i + sizeof(ConfigHeader)] = options_.config[i];
      break;
    }
    case VHOST_USER_SET_CONFIG: {
      const auto head = object<ConfigHeader>(payload);
      for (size_t i = 0; i < head.size && head.offset + i < options_.config.size(); ++i)
        options_.config[head.offset + i] = payload[sizeof head + i];
      break;
    }
    default:
      break;
  }
  const bool refuse = options_.sinful == request && options_.sin == Sin::kRefuse;
  if (!answer && (header.flags & kNeedReply) != 0) answer = bytes(uint64_t{refuse ? 1u : 0u});
  const bool good = reply(socket, header, answer ? *answer : std::vector<uint8_t>());
  requests_.push_back(request);
  changed_.notify_all();
  return good;
}

bool FakeBackEnd::reply(int socket, const Header& header, std::vector<uint8_t> payload) {
  const Sin sin = static_cast<Request>(header.request) == options_.sinful ? options_.sin : Sin::kNone;
  if (sin == Sin::kClose) return false;
  if (sin == Sin::kSpeakFirst) {
    say_locked(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, kVersion | kNeedReply, {});
    std::array<uint32_t, 5> heard{};
    if (!read_all(own_requests_.get(), heard.data(), sizeof heard) || heard[3] != 0 || heard[4] != 0)
      return false;
  }
  if (sin == Sin::kFlood) {
    const Header change{VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, kVersion, 0};
    while (::send(own_requests_.get(), &change, sizeof change, MSG_NOSIGNAL) > 0) {
    }
    return false;
  }
  if (payload.empty() || sin == Sin::kSilence) return true;
  Header answer{header.request, kVersion | kReply, static_cast<uint32_t>(payload.size())};
  if (sin == Sin::kWrongType) ++answer.request;
  if (sin == Sin::kNoReplyFlag) answer.flags = kVersion;
  if (sin == Sin::kWrongVersion) answer.flags = kReply | 2;
  if (sin == Sin::kShortReply) --answer.size;
  if (sin == Sin::kHugeReply) answer.size = 0xffffffff;
  auto message = bytes(answer);
  message.insert(message.end(), payload.begin(), payload.end());
  if (sin == Sin::kHalfReply) message.resize(sizeof answer + payload.size() / 2);
  const bool sent =
      ::send(socket, message.data(), message.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(message.size());
  return sent && sin != Sin::kHalfReply;
}

void FakeBackEnd::unmap_locked() {
  for (const Region& each : regions_) ::munmap(each.host, each.region.size);
  regions_.clear();
}

std::byte* FakeBackEnd::user_locked(uint64_t address) {
  for (const Region& each : regions_)
    if (address - each.region.user_address < each.region.size)
      return each.host + (address - each.region.user_address);
  return nullptr;
}

std::byte* FakeBackEnd::guest_locked(uint64_t address) {
  for (const Region& each : regions_)
    if (address - each.region.guest_address < each.region.size)
      return each.host + (address - each.region.guest_address);
  return nullptr;
}

std::byte* FakeBackEnd::guest(uint64_t address) {
  const std::lock_guard lock(mutex_);
  return guest_locked(address);
}

size_t FakeBackEnd::regions() {
  const std::lock_guard lock(mutex_);
  return regions_.size();
}

void FakeBackEnd::say(uint32_t request, uint32_t flags, std::vector<uint8_t> payload) {
  const std::lock_guard lock(mutex_);
  say_locked(request, flags, payload);
}

void FakeBackEnd::say_locked(uint32_t request, uint32_t flags, const std::vector<uint8_t>& payload) {
  auto message = bytes(Header{request, flags, static_cast<uint32_t>(payload.size())});
  message.insert(message.end(), payload.begin(), payload.end());
  if (::send(own_requests_.get(), message.data(), message.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(message.size()))
    std::abort();
}

void FakeBackEnd::set_config(std::vector<uint8_t> config) {
  const std::lock_guard lock(mutex_);
  options_.config = std::move(config);
}

uint64_t FakeBackEnd::set_features() {
  const std::lock_guard lock(mutex_);
  return set_features_;
}

bool FakeBackEnd::started(unsigned index) {
  const std::lock_guard lock(mutex_);
  const auto found = rings_.find(index);
  return found != rings_.end() && found->second.started;
}

bool FakeBackEnd::enabled(unsigned index) {
  const std::lock_guard lock(mutex_);
  const auto found = rings_.find(index);
  return found != rings_.end() && found->second.enabled;
}

uint64_t FakeBackEnd::kicks(unsigned index) {
  const std::lock_guard lock(mutex_);
  uint64_t count = 0;
  const auto found = rings_.find(index);
  if (found == rings_.end() || ::read(found->second.kick.get(), &count, sizeof count) < 0) return 0;
  return count;
}

std::optional<FakeBackEnd::Chain> FakeBackEnd::pop(unsigned index) {
  const std::lock_guard lock(mutex_);
  const auto found = rings_.find(index);
  if (found == rings_.end()) return std::nullopt;
  Ring& ring = found->second;
  auto* const available = reinterpret_cast<uint16_t*>(user_locked(ring.address.available));
  if (available == nullptr || __atomic_load_n(available + 1, __ATOMIC_ACQUIRE) == ring.available)
    return std::nullopt;
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
  };
  const auto* table = reinterpret_cast<const Descriptor*>(user_locked(ring.address.descriptors));
  Chain chain;
  chain.head = available[2 + ring.available++ % ring.size];
  uint16_t first = chain.head;
  if ((table[first].flags & 4) != 0) {  // an indirect table
    table = reinterpret_cast<const Descriptor*>(guest_locked(table[first].address));
    first = 0;
  }
  for (uint16_t at = first;; at = table[at].next) {
    std::byte* const host = guest_locked(table[at].address);
    if ((table[at].flags & 2) != 0)
      chain.writable.emplace_back(host, table[at].length);
    else
      chain.readable.append(reinterpret_cast<const char*>(host), table[at].length);
    if ((table[at].flags & 1) == 0) return chain;
  }
}

void FakeBackEnd::push(unsigned index, uint32_t head, uint32_t length) {
  {
    const std::lock_guard lock(mutex_);
    Ring& ring = rings_[index];
    auto* const used = reinterpret_cast<uint32_t*>(user_locked(ring.address.used) + 4);
    used[2 * (ring.used % ring.size)] = head;
    used[2 * (ring.used % ring.size) + 1] = length;
    ++ring.used;
  }
  claim_used(index, rings_[index].used);
  call(index);
}

void FakeBackEnd::claim_used(unsigned index, uint16_t used) {
  const std::lock_guard lock(mutex_);
  auto* const to = reinterpret_cast<uint16_t*>(user_locked(rings_[index].address.used));
  __atomic_store_n(to + 1, used, __ATOMIC_RELEASE);
}

void FakeBackEnd::call(unsigned index) {
  const std::lock_guard lock(mutex_);
  const uint64_t one = 1;
  if (::write(rings_[index].call.get(), &one, sizeof one) != sizeof one) std::abort();
}

}  // namespace ostler::virtio::vhost_user::test
