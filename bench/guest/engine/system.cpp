// Paths through the kernel, repeated:  system syscall|pages|fork|exec|pipe
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

int failed(const char* what) {
  perror(what);
  return 1;
}

int syscalls() {
  for (int i = 0; i < 5'000'000; ++i) {
    if (syscall(SYS_getppid) < 0) return failed("getppid");
  }
  return 0;
}

int pages() {
  constexpr std::size_t kBytes = 4 << 20;
  for (int round = 0; round < 250; ++round) {
    void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return failed("mmap");
    madvise(mapped, kBytes, MADV_NOHUGEPAGE);
    for (std::size_t at = 0; at < kBytes; at += 4096) static_cast<volatile char*>(mapped)[at] = 1;
    munmap(mapped, kBytes);
  }
  return 0;
}

int forks(bool exec) {
  for (int i = 0; i < (exec ? 300 : 1500); ++i) {
    const pid_t child = fork();
    if (child < 0) return failed("fork");
    if (child == 0) {
      if (exec) execl("/bin/true", "true", nullptr);
      _exit(exec ? 127 : 0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) return failed("the child");
  }
  return 0;
}

int pipes() {
  int there[2], back[2];
  if (pipe(there) != 0 || pipe(back) != 0) return failed("pipe");
  const pid_t child = fork();
  char byte = 'x';
  if (child == 0) {
    close(there[1]);
    while (read(there[0], &byte, 1) == 1) {
      if (write(back[1], &byte, 1) != 1) _exit(1);
    }
    _exit(0);
  }
  for (int i = 0; i < 60'000; ++i) {
    if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) return failed("ping");
  }
  close(there[1]);
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const int status = name == "syscall" ? syscalls()
                     : name == "pages" ? pages()
                     : name == "fork"  ? forks(false)
                     : name == "exec"  ? forks(true)
                     : name == "pipe"  ? pipes()
                                       : 2;
  if (status == 0) puts("done");
  return status;
}
