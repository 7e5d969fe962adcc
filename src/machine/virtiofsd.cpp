#include "machine/virtiofsd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace ostler::machine {
namespace {

// QEMU 7.2's, written in C; Debian 12 has no other. Later ones are a program of their own, in Rust, with
// other options.
constexpr const char kOfQemu[] = "/usr/lib/qemu/virtiofsd";
constexpr const char kOwn[] = "/usr/libexec/virtiofsd";

std::string find_program() {
  std::vector<std::string> places = {kOfQemu, kOwn};
  const char* const path = std::getenv("PATH");
  for (std::string_view rest = path == nullptr ? "" : path; !rest.empty();) {
    const size_t end = std::min(rest.find(':'), rest.size());
    if (end != 0) places.push_back(fmt::format("{}/virtiofsd", rest.substr(0, end)));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  for (const std::string& place : places)
    if (::access(place.c_str(), X_OK) == 0) return place;
  return {};
}

struct Sockets {
  Fd listener, connected;
};

// Through a name in a folder of our own that is gone before the program starts: nobody else can connect.
Result<Sockets> make_sockets() {
  std::string folder = "/tmp/ostler-share-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return errno_error("cannot make a folder in /tmp", errno);
  const std::string path = folder + "/socket";
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  const auto* const address = reinterpret_cast<const sockaddr*>(&name);
  Sockets sockets{Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                  Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))};
  const bool good = sockets.listener && sockets.connected &&
                    ::bind(sockets.listener.get(), address, sizeof name) == 0 &&
                    ::listen(sockets.listener.get(), 1) == 0 &&
                    ::connect(sockets.connected.get(), address, sizeof name) == 0;
  const int error = errno;
  ::unlink(path.c_str());
  ::rmdir(folder.c_str());
  if (!good) return errno_error("cannot make a socket for virtiofsd", error);
  return sockets;
}

// In the child, where only async-signal-safe functions may be called.
[[noreturn]] void become(const std::vector<char*>& arguments, int listener, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(0);  // it ended before that
  ::setsid();                             // a Ctrl-C at our terminal is not for it
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  ::fcntl(listener, F_SETFD, 0);
  ::execv(arguments[0], arguments.data());
  ::_exit(127);
}

// The program that can serve `folder`.
Result<std::string> program_for(const std::string& folder) {
  std::string program = find_program();
  if (program.empty())
    return Error(ErrorKind::kNotFound,
                 fmt::format("there is no virtiofsd at {} or {} or in PATH; install the package "
                             "qemu-system-common (Debian 12) or virtiofsd (later ones), or say --share-as 9p",
                             kOfQemu, kOwn));
  if (program == kOfQemu && ::geteuid() != 0)
    return Error(
        ErrorKind::kPermission,
        fmt::format("{} works for root alone; run this as root, install a virtiofsd of version 1, or say "
                    "--share-as 9p",
                    program));
  // A comma would begin another of its options.
  if (program == kOfQemu && folder.find(',') != std::string::npos)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}': {} takes no folder with a comma in its name", folder, program));
  return program;
}

}  // namespace

Result<void> Virtiofsd::usable(const std::string& folder) {
  TRY(program_for(folder));
  return {};
}

Result<std::unique_ptr<Virtiofsd>> Virtiofsd::start(const std::string& folder) {
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) return errno_error(fmt::format("'{}'", folder), errno);
  if (!S_ISDIR(info.st_mode))
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a folder", folder));
  TRY_ASSIGN(const std::string program, program_for(folder));
  TRY_ASSIGN(Sockets sockets, make_sockets());
  std::vector<std::string> words = {program, fmt::format("--fd={}", sockets.listener.get())};
  if (program == kOfQemu) {
    for (const std::string& word :
         {std::string("-f"), std::string("-o"), fmt::format("source={},log_level=err", folder)})
      words.push_back(word);
  } else {
    for (const std::string& word : {"--shared-dir=" + folder, std::string("--log-level=error")})
      words.push_back(word);
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  std::unique_ptr<Virtiofsd> daemon(new Virtiofsd);
  const pid_t parent = ::getpid();
  daemon->process_ = ::fork();
  if (daemon->process_ < 0) return errno_error(fmt::format("cannot start {}", program), errno);
  if (daemon->process_ == 0) become(arguments, sockets.listener.get(), parent);
  daemon->address_.path = program;
  daemon->address_.connected = std::make_shared<Fd>(std::move(sockets.connected));
  return daemon;
}

Virtiofsd::~Virtiofsd() {
  if (process_ <= 0) return;
  address_.connected.reset();
  ::kill(process_, SIGTERM);
  // It ends at once; if not, it is made to.
  for (int i = 0; i < 200; ++i) {
    if (::waitpid(process_, nullptr, WNOHANG) != 0) return;
    ::usleep(10'000);
  }
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

}  // namespace ostler::machine
