#include "devices/virtio/console/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::virtio::console {
namespace {

constexpr uint16_t kQueueSize = 64;
constexpr size_t kMostName = 256;

// §5.3.6.2
struct ControlMessage {
  uint32_t id;
  uint16_t event;
  uint16_t value;
};
static_assert(sizeof(ControlMessage) == 8);
enum Event : uint16_t {
  VIRTIO_CONSOLE_DEVICE_READY = 0,
  VIRTIO_CONSOLE_DEVICE_ADD = 1,
  VIRTIO_CONSOLE_DEVICE_REMOVE = 2,
  VIRTIO_CONSOLE_PORT_READY = 3,
  VIRTIO_CONSOLE_CONSOLE_PORT = 4,
  VIRTIO_CONSOLE_RESIZE = 5,
  VIRTIO_CONSOLE_PORT_OPEN = 6,
  VIRTIO_CONSOLE_PORT_NAME = 7,
};

// §5.3.4
struct Config {
  uint16_t cols;
  uint16_t rows;
  uint32_t max_nr_ports;
  uint32_t emerg_wr;
};

std::vector<uint16_t> queue_sizes(const Options& options) {
  return std::vector<uint16_t>(2u * (options.max_ports + 1u), kQueueSize);
}

}  // namespace

ConsoleDevice::ConsoleDevice(memory::AddressSpace& memory, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-serial" : options.id, queue_sizes(options),
             options.withheld_features()),
      options_(options),
      ports_(options.max_ports) {}

ConsoleDevice::~ConsoleDevice() {
  for (const auto& port : ports_)
    if (port && port->backend_ != nullptr) port->backend_->attach(nullptr);
  reset();
}

bool ConsoleDevice::has_name(std::string_view name) const {
  return std::ranges::any_of(ports_, [&](const auto& port) { return port && port->name_ == name; });
}

Result<void> ConsoleDevice::add_port(const PortOptions& options, bool console,
                                     chardev::CharBackend* backend) {
  unsigned number = options.nr;
  if (options.nr == PortOptions::kFirstFree) {
    // Port 0 is the console that drivers without MULTIPORT know.
    number = console ? 0 : 1;
    while (number < ports_.size() && ports_[number]) ++number;
  }
  if (options.nr == PortOptions::kFirstFree && number >= ports_.size())
    return Error(ErrorKind::kNoResource,
                 fmt::format("no port of {} is free; raise its max_ports={}", name(), ports_.size()));
  if (number >= ports_.size())
    return Error(ErrorKind::kNoResource,
                 fmt::format("nr={} is not among the ports of {}; raise its max_ports={}", number, name(),
                             ports_.size()));
  if (ports_[number])
    return Error(ErrorKind::kBusy, fmt::format("port {} of {} is taken; choose another nr", number, name()));
  if (number == 0 && !console)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("port 0 of {} is for a virtconsole; choose another nr", name()));
  if (options.name.size() > kMostName)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("a name of {} characters is too long; {} is the most", options.name.size(), kMostName));
  ports_[number] = std::make_unique<Port>(*this, number, console, options.name, backend);
  if (backend != nullptr) {
    ports_[number]->host_connected_ = backend->connected();
    backend->attach(ports_[number].get());
  }
  return {};
}

void ConsoleDevice::config_locked(std::vector<std::byte>& bytes) {
  const Config config = {
      .cols = 0, .rows = 0, .max_nr_ports = static_cast<uint32_t>(ports_.size()), .emerg_wr = 0};
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

void ConsoleDevice::started_locked() {
  for (const auto& port : ports_)
    if (port && port->backend_ != nullptr) port->backend_->accept_input();
}

void ConsoleDevice::loaded_locked() {
  started_locked();
}

void ConsoleDevice::stopped_locked() {
  for (const auto& port : ports_) {
    if (!port) continue;
    port->guest_open_ = false;
    port->pending_ = 0;
    port->sent_ = 0;
  }
}

// Whether input is wanted: a console always listens, a named port when somebody in the guest has opened it.
bool ConsoleDevice::open_locked(const Port& port) const {
  return !multiport() ? port.number_ == 0 : port.console_ || port.guest_open_;
}

void ConsoleDevice::process(unsigned index, Lock&) {
  Queue& queue = *this->queue(index);
  if (index == kControlIn) return send_pending_locked();
  if (index == kControlOut) return control_locked(queue);
  const unsigned number = index < 2 ? 0 : index / 2 - 1;
  if (number >= ports_.size() || !ports_[number]) return;
  Port& port = *ports_[number];
  if (index % 2 != 0)
    transmit_locked(port, queue);
  else if (port.backend_ != nullptr)
    port.backend_->accept_input();
}

void ConsoleDevice::transmit_locked(Port& port, Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    if (!write_out_locked(port, queue, chain)) {
      queue.unpop(std::move(chain));
      return false;  // host_writable() goes on, from sent_
    }
    port.sent_ = 0;
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
}

bool ConsoleDevice::write_out_locked(Port& port, Queue& queue, const Chain& chain) {
  std::array<std::byte, 4096> piece;
  while (port.sent_ < chain.readable_bytes()) {
    const auto part =
        std::span(piece).first(std::min<uint64_t>(piece.size(), chain.readable_bytes() - port.sent_));
    if (port.backend_ == nullptr || !chain.read(queue.dma(), port.sent_, part)) return true;
    const size_t taken = port.backend_->write(part);
    port.sent_ += taken;
    if (taken < part.size()) return false;
  }
  return true;
}

void ConsoleDevice::host_writable(Port& port) {
  const Lock lock(mutex_);
  if (Queue* queue = enabled_queue(out_queue(port.number_))) transmit_locked(port, *queue);
}

size_t ConsoleDevice::can_receive(Port& port) {
  const Lock lock(mutex_);
  Queue* queue = enabled_queue(in_queue(port.number_));
  if (queue == nullptr || !open_locked(port)) return 0;
  auto chain = queue->pop();
  if (!chain) return 0;
  const auto room = static_cast<size_t>(chain->writable_bytes());
  queue->unpop(*std::move(chain));
  return room;
}

void ConsoleDevice::receive(Port& port, std::span<const std::byte> bytes) {
  const Lock lock(mutex_);
  Queue* queue = enabled_queue(in_queue(port.number_));
  if (queue == nullptr) return;  // reset since can_receive(): lost, as on a wire
  while (!bytes.empty()) {
    auto chain = queue->pop();
    if (!chain) break;
    if (chain->writable_bytes() == 0) return fail_locked(*queue, "an input buffer that cannot be written");
    const auto part = bytes.first(std::min<uint64_t>(bytes.size(), chain->writable_bytes()));
    if (!chain->write(queue->dma(), 0, part)) return fail_locked(*queue, "an input buffer outside RAM");
    bytes = bytes.subspan(part.size());
    queue->push(*std::move(chain), static_cast<uint32_t>(part.size()));
  }
  signal_locked(*queue);
}

void ConsoleDevice::host_event(Port& port, chardev::CharEvent event) {
  const Lock lock(mutex_);
  if (event == chardev::CharEvent::kBreak) return;
  port.host_connected_ = event == chardev::CharEvent::kOpened;
  if (!running() || !multiport()) return;
  port.pending_ = static_cast<uint8_t>(port.pending_ & ~(kOpen | kClose));
  port.pending_ |= port.host_connected_ ? kOpen : kClose;
  send_pending_locked();
}

void ConsoleDevice::control_locked(Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    ControlMessage message;
    if (!chain.read_object(queue.dma(), 0, message)) {
      fail_locked(queue, "a short control message");
      return false;
    }
    control_message_locked(message.id, message.event, message.value);
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
  send_pending_locked();
}

void ConsoleDevice::control_message_locked(uint32_t id, uint16_t event, uint16_t value) {
  if (event == VIRTIO_CONSOLE_DEVICE_READY) {
    if (value != 1) return;
    for (const auto& port : ports_)
      if (port) port->pending_ |= kAdd;
    return;
  }
  if (id >= ports_.size() || !ports_[id]) {
    log::guest_error("{}: control message {} for port {}", name(), event, id);
    return;
  }
  Port& port = *ports_[id];
  switch (event) {
    case VIRTIO_CONSOLE_PORT_READY:
      if (value != 1) break;
      if (port.console_) port.pending_ |= kConsole;
      if (!port.name_.empty()) port.pending_ |= kName;
      if (port.host_connected_) port.pending_ |= kOpen;
      break;
    case VIRTIO_CONSOLE_PORT_OPEN:
      port.guest_open_ = value == 1;
      if (port.guest_open_ && port.backend_ != nullptr) port.backend_->accept_input();
      break;
    default:
      log::guest_error("{}: control message {}", name(), event);
  }
}

void ConsoleDevice::send_pending_locked() {
  Queue* queue = enabled_queue(kControlIn);
  if (queue == nullptr || !multiport()) return;
  for (const auto& port : ports_) {
    if (!port) continue;
    while (port->pending_ != 0 && !queue->broken()) {
      auto chain = queue->pop();
      if (!chain) return signal_locked(*queue);
      const auto which = static_cast<uint8_t>(port->pending_ & -port->pending_);
      ControlMessage message = {port->number_, 0, 1};
      std::string text;
      switch (which) {
        case kAdd:
          message.event = VIRTIO_CONSOLE_DEVICE_ADD;
          break;
        case kConsole:
          message.event = VIRTIO_CONSOLE_CONSOLE_PORT;
          break;
        case kName:
          message.event = VIRTIO_CONSOLE_PORT_NAME;
          text = port->name_;
          break;
        default:
          message.event = VIRTIO_CONSOLE_PORT_OPEN;
          message.value = which == kOpen ? 1 : 0;
      }
      const auto name_bytes = std::as_bytes(std::span(text));
      if (chain->writable_bytes() < sizeof message + text.size() ||
          !chain->write_object(queue->dma(), 0, message) ||
          !chain->write(queue->dma(), sizeof message, name_bytes))
        return fail_locked(*queue, "a control buffer that is too small");
      port->pending_ = static_cast<uint8_t>(port->pending_ & ~which);
      queue->push(*std::move(chain), static_cast<uint32_t>(sizeof message + text.size()));
    }
  }
  signal_locked(*queue);
}

void ConsoleDevice::device_state(state::Archive& archive) {
  archive.section("virtio-console", 1);
  for (const auto& port : ports_) {
    bool present = port != nullptr;
    archive.field("present", present);
    archive.check(present == (port != nullptr), "port");
    if (!port) continue;
    archive.field("guest_open", port->guest_open_);
    archive.field("pending", port->pending_);
    archive.field("sent", port->sent_);
  }
}

}  // namespace ostler::virtio::console
