// What busybox cannot do with files: extended attributes, locks, cutting without opening.
//   files set PATH NAME VALUE | get PATH NAME | remove PATH NAME
//   files cut PATH SIZE
//   files lock PATH PIPE: keeps the whole file locked until the pipe is written to; status 1 when somebody has it
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int lock(const char *path, const char *pipe) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  const int fd = open(path, O_RDWR);
  if (fd < 0 || fcntl(fd, F_SETLK, &lock) != 0) return fail(path);
  return open(pipe, O_RDONLY) < 0 ? fail(pipe) : 0;
}

int main(int count, char **words) {
  char value[256] = "";
  const char *const what = count > 3 ? words[1] : "";
  if (strcmp(what, "cut") == 0) return truncate(words[2], atoi(words[3])) == 0 ? 0 : fail(words[2]);
  if (strcmp(what, "lock") == 0) return lock(words[2], words[3]);
  if (strcmp(what, "set") == 0 && count == 5)
    return setxattr(words[2], words[3], words[4], strlen(words[4]), 0) == 0 ? 0 : fail(words[2]);
  if (strcmp(what, "remove") == 0) return removexattr(words[2], words[3]) == 0 ? 0 : fail(words[2]);
  if (strcmp(what, "get") != 0) return 2;
  if (getxattr(words[2], words[3], value, sizeof value - 1) < 0) return fail(words[2]);
  return puts(value) < 0;
}
