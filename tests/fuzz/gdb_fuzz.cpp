// What a debugger's client sends, with stops of the guest in between: no byte stream makes the stub grow,
// answer more than a packet holds, or forget that the guest has to run when the client is gone.
#include <cstdlib>

#include "gdb/packet.h"
#include "gdb/stub.h"
#include "unit/gdb/fake_target.h"

namespace {

using namespace ostler;

struct Line final : chardev::CharBackend {
  void attach(chardev::CharFrontend* to) override { frontend = to; }
  size_t write(std::span<const std::byte> bytes) override {
    if (bytes.size() > 2 * gdb::kMostPacket + 16) std::abort();
    return bytes.size() < room ? bytes.size() : room;
  }
  void accept_input() override {}
  chardev::CharFrontend* frontend = nullptr;
  size_t room = SIZE_MAX;
};

}  // namespace

// 0xff: the next byte tells an event. Everything else is the client's. Packets get right checksums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  gdb::FakeTarget target(3);
  Line line;
  static event::VirtualClock clock;
  static event::Loop loop(clock);
  {
    gdb::Stub stub(target, line, loop);
    line.frontend->event(chardev::CharEvent::kOpened);
    const auto type = [&](std::string_view text) {
      while (!text.empty() && line.frontend->can_receive() != 0) {
        const size_t step = std::min(text.size(), line.frontend->can_receive());
        line.frontend->receive(std::as_bytes(std::span(text.substr(0, step))));
        text.remove_prefix(step);
        loop.run_due();
      }
    };
    std::string packet;
    for (size_t i = 0; i < size; ++i) {
      if (data[i] == '\n') {
        type(gdb::frame(packet));
        packet.clear();
        continue;
      }
      if (data[i] != 0xff || i + 1 == size) {
        packet += static_cast<char>(data[i]);
        continue;
      }
      const uint8_t event = data[++i];
      gdb::Session* session = stub.session();
      switch (event % 8) {
        case 0:
          line.frontend->event(chardev::CharEvent::kClosed);
          line.frontend->event(chardev::CharEvent::kOpened);
          break;
        case 1:
          type("\x03");
          break;
        case 2:
          type(packet);  // unframed
          packet.clear();
          break;
        case 3:
          line.room = event;
          break;
        case 4:
          line.room = SIZE_MAX;
          line.frontend->writable();
          break;
        case 5:
          if (session != nullptr) session->paused_by_others();
          target.runs = false;
          break;
        default:
          if (session != nullptr && target.runs)
            session->stopped(event % 3,
                             {.hit = static_cast<accel::BreakpointKind>(event / 8 % 5), .address = event});
          break;
      }
    }
    line.frontend->event(chardev::CharEvent::kClosed);
  }
  if (!target.breakpoints.empty()) std::abort();
  return 0;
}
