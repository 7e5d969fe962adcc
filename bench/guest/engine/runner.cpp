// Runs the named workloads of ./workload one at a time, in a guest (as its first process) and natively alike,
// and says how long each took.
//   request, a line on standard input    run NAME            shell COMMAND
//   answer, a line on standard output    @done NAME SECONDS STATUS SUM
// SECONDS are CLOCK_MONOTONIC from fork to the end of `./workload NAME`, without `./workload NAME prepare`
// before it; SUM is FNV-1a (64 bit) over what the workload wrote. `shell` passes the output on instead.
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <string>

namespace {

struct Outcome {
  double seconds;
  int status;
  std::uint64_t sum;
};

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Runs argv (ended by a null pointer); its output goes into the sum, or to our own output when `pass_on`.
Outcome run(std::initializer_list<const char*> words, bool pass_on) {
  const char* argv[8] = {};
  std::size_t count = 0;
  for (const char* word : words) argv[count++] = word;
  int ends[2];
  if (pipe(ends) != 0) return {0, -1, 0};
  const double begin = now();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    if (freopen("/dev/null", "r", stdin) == nullptr) _exit(126);
    execv(argv[0], const_cast<char* const*>(argv));
    _exit(127);
  }
  close(ends[1]);
  std::uint64_t sum = 0xcbf29ce484222325;
  static char buffer[65536];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
    if (pass_on) {
      fwrite(buffer, 1, static_cast<std::size_t>(got), stdout);
      continue;
    }
    for (ssize_t i = 0; i < got; ++i) sum = (sum ^ static_cast<std::uint8_t>(buffer[i])) * 0x100000001b3;
  }
  int status = -1;
  waitpid(child, &status, 0);
  const double seconds = now() - begin;
  close(ends[0]);
  // The first process of a guest inherits whatever a workload left behind.
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
  return {seconds, WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status), sum};
}

void answer(const char* name, const Outcome& outcome) {
  printf("\n@done %s %.6f %d %016llx\n", name, outcome.seconds, outcome.status,
         static_cast<unsigned long long>(outcome.sum));
  fflush(stdout);
}

}  // namespace

int main() {
  termios terminal{};
  if (tcgetattr(STDIN_FILENO, &terminal) == 0) {
    terminal.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
  }
  printf("\n@ready\n");
  fflush(stdout);
  static char line[4096];
  while (fgets(line, sizeof line, stdin) != nullptr) {
    line[strcspn(line, "\r\n")] = 0;
    if (strncmp(line, "run ", 4) == 0) {
      const char* name = line + 4;
      Outcome outcome = run({"/bin/sh", "./workload", name, "prepare"}, false);
      if (outcome.status == 0) outcome = run({"/bin/sh", "./workload", name}, false);
      answer(name, outcome);
    } else if (strncmp(line, "shell ", 6) == 0) {
      answer("shell", run({"/bin/sh", "-c", line + 6}, true));
    }
  }
  return 0;
}
