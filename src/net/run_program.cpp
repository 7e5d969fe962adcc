#include "net/run_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

namespace ostler::net {
namespace {

struct Capabilities {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  bool get() { return ::syscall(SYS_capget, &header, data) == 0; }
  bool set() { return ::syscall(SYS_capset, &header, data) == 0; }
};

// What this process was given by its file goes on to the program. In the child; errors leave it without.
void pass_capabilities_on() {
  Capabilities own;
  if (::geteuid() == 0 || !own.get()) return;
  for (auto& part : own.data) part.inheritable |= part.permitted;
  if (!own.set()) return;
  for (const int each : {CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE})
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, each, 0, 0);
}

[[noreturn]] void become(const std::vector<char*>& arguments, int kept) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int each : {SIGPIPE, SIGXFSZ}) std::signal(each, SIG_DFL);
  pass_capabilities_on();
  // Their output must not be taken for the guest's console.
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  if (kept >= 0) ::fcntl(kept, F_SETFD, 0);
  ::execvp(arguments[0], arguments.data());
  ::_exit(errno == ENOENT ? 127 : 126);
}

}  // namespace

Result<void> run_program(const std::vector<std::string>& words, int kept) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return errno_error(fmt::format("cannot start {}", words[0]), errno);
  if (child == 0) become(arguments, kept);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return Error(ErrorKind::kNotFound, fmt::format("the program {} is not there", words[0]));
  return Error(ErrorKind::kIo, WIFEXITED(status)
                                   ? fmt::format("{} failed with status {}", words[0], WEXITSTATUS(status))
                                   : fmt::format("{} was ended by signal {}", words[0], WTERMSIG(status)));
}

bool may_administer() {
  Capabilities own;
  return own.get() && (own.data[CAP_NET_ADMIN / 32].effective & (1u << CAP_NET_ADMIN % 32)) != 0;
}

std::string grant_command() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return fmt::format("sudo setcap cap_net_admin,cap_net_raw,cap_net_bind_service=ep {}",
                     error ? "PROGRAM" : program.string());
}

}  // namespace ostler::net
