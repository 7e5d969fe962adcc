// A machine that obeys a socket:
//
//     ostler-control SOCKET OPTION…     the options are those of ostler-system-x86_64
//
// One peer at a time sends lines {"do": NAME, …arguments} and gets {"return": …} or {"error": SENTENCE} for
// each. SIGTERM ends it in order.

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/fd.h"
#include "config/qemu_command_line.h"
#include "event/loop.h"
#include "machine/control_commands.h"

namespace ostler::test {
namespace {

using nlohmann::json;

class Control {
 public:
  Control(machine::Machine& machine, const std::string& path)
      : loop_(machine.loop()),
        commands_(commands_of(machine)),
        listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_.get(), 1) != 0)
      std::perror(path.c_str());
    loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { greet(); });
  }
  ~Control() {
    hang_up();
    loop_.unwatch(listener_.get());
  }

 private:
  void greet() {
    Fd next(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!next) return;
    hang_up();
    peer_ = std::move(next);
    loop_.watch(peer_.get(), EPOLLIN, [this](uint32_t) { hear(); });
  }
  void hang_up() {
    if (peer_) loop_.unwatch(peer_.get());
    peer_.reset();
    heard_.clear();
  }
  void hear() {
    char bytes[4096];
    const ssize_t count = ::read(peer_.get(), bytes, sizeof bytes);
    if (count <= 0) return hang_up();
    heard_.append(bytes, static_cast<size_t>(count));
    for (size_t end = heard_.find('\n'); end != std::string::npos; end = heard_.find('\n')) {
      const std::string line = heard_.substr(0, end);
      heard_.erase(0, end + 1);
      const std::string reply = obey(line).dump() + "\n";
      if (::write(peer_.get(), reply.data(), reply.size()) != static_cast<ssize_t>(reply.size()))
        return hang_up();
    }
  }
  json obey(const std::string& line) {
    const json request = json::parse(line, nullptr, false);
    const auto found = request.is_object() ? commands_.find(request.value("do", "")) : commands_.end();
    if (found == commands_.end()) return {{"error", "there is no such command: " + line}};
    auto done = found->second(request);
    if (!done) return {{"error", done.error().message()}};
    return {{"return", *done}};
  }

  event::Loop& loop_;
  const std::map<std::string, Command> commands_;
  const Fd listener_;
  Fd peer_;
  std::string heard_;
};

int run(const std::string& path, const std::vector<std::string>& arguments) {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);
  const Fd signals(signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
  const auto command = config::parse_qemu_command_line(arguments);
  if (!command) return std::fprintf(stderr, "%s\n", command.error().message().c_str()), 1;
  auto created = machine::Machine::create(command->machine);
  if (!created) return std::fprintf(stderr, "%s\n", created.error().message().c_str()), 1;
  machine::Machine& machine = **created;
  machine.loop().watch(signals.get(), EPOLLIN, [&](uint32_t) { machine.quit(0); });
  int status = 1;
  {
    const Control control(machine, path);
    status = machine.run();
  }
  machine.loop().unwatch(signals.get());
  return status;
}

}  // namespace
}  // namespace ostler::test

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: ostler-control SOCKET OPTION…\n"), 2;
  return ostler::test::run(argv[1], {argv + 2, argv + argc});
}
