/* Sockets between guest and host (AF_VSOCK) for shell scripts, since busybox has none.
 *
 *   vsock connect CID PORT          joins a connection to standard input and output; at the end of input it
 *                                   sends no more, and it ends when both sides have sent all
 *   vsock serve PORT COMMAND…       runs the command for each connection, as its input and output
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what) {
  fprintf(stderr, "vsock: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int copy(int from, int to) {
  static char bytes[65536];
  ssize_t got = read(from, bytes, sizeof bytes);
  if (got < 0) fail("read");
  for (ssize_t done = 0; done < got;) {
    ssize_t put = write(to, bytes + done, (size_t)(got - done));
    if (put < 0) fail("write");
    done += put;
  }
  return got != 0;
}

/* Each direction in a process of its own: neither waits for the other. */
static void join(int fd) {
  pid_t sender = fork();
  if (sender < 0) fail("fork");
  if (sender == 0) {
    while (copy(0, fd)) {
    }
    shutdown(fd, SHUT_WR);
    exit(0);
  }
  while (copy(fd, 1)) {
  }
  waitpid(sender, NULL, 0);
}

int main(int count, char **words) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  if (count == 4 && strcmp(words[1], "connect") == 0) {
    address.svm_cid = (unsigned)strtoul(words[2], NULL, 0);
    address.svm_port = (unsigned)strtoul(words[3], NULL, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
    join(fd);
    return 0;
  }
  if (count >= 4 && strcmp(words[1], "serve") == 0) {
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = (unsigned)strtoul(words[2], NULL, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("bind");
    if (listen(fd, 16) != 0) fail("listen");
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
      int peer = accept(fd, NULL, NULL);
      if (peer < 0) fail("accept");
      if (fork() == 0) {
        dup2(peer, 0);
        dup2(peer, 1);
        close(peer);
        execvp(words[3], words + 3);
        fail(words[3]);
      }
      close(peer);
    }
  }
  fprintf(stderr, "vsock connect CID PORT, or vsock serve PORT COMMAND…\n");
  return 2;
}
