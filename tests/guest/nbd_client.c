/* Gives an export of an NBD server to the guest's kernel as a block device, since busybox cannot:
 *   nbd_client ADDRESS PORT EXPORT DEVICE
 * Fixed newstyle with NBD_OPT_EXPORT_NAME (the protocol's doc/proto.md). It ends when the device is
 * disconnected: by SIGTERM here, or by the server's end. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int device;

static void fail(const char *what) {
  fprintf(stderr, "nbd_client: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void get(int from, void *bytes, size_t size) {
  if (recv(from, bytes, size, MSG_WAITALL) != (ssize_t)size) fail("the server's answer");
}

static void put(int to, const void *bytes, size_t size) {
  if (send(to, bytes, size, 0) != (ssize_t)size) fail("sending to the server");
}

static void disconnect(int signal) {
  (void)signal;
  ioctl(device, NBD_DISCONNECT);
}

int main(int argc, char **argv) {
  if (argc != 5) fail("usage: nbd_client ADDRESS PORT EXPORT DEVICE");
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
  if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) fail(argv[1]);
  const int link = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(link, (struct sockaddr *)&server, sizeof server) != 0) fail("connect");

  struct __attribute__((packed)) {
    char magic[16];
    uint16_t flags;
  } hello;
  get(link, &hello, sizeof hello);
  if (memcmp(hello.magic, "NBDMAGICIHAVEOPT", 16) != 0 || (be16toh(hello.flags) & 3) != 3) fail("its greeting");
  const uint32_t mine = htobe32(3); /* fixed newstyle, no zeroes behind the answer */
  put(link, &mine, sizeof mine);
  struct __attribute__((packed)) {
    char magic[8];
    uint32_t option, length;
  } ask = {.magic = "IHAVEOPT", .option = htobe32(1), .length = htobe32((uint32_t)strlen(argv[3]))};
  put(link, &ask, sizeof ask);
  put(link, argv[3], strlen(argv[3]));
  struct __attribute__((packed)) {
    uint64_t size;
    uint16_t flags;
  } answer;
  get(link, &answer, sizeof answer);

  device = open(argv[4], O_RDWR);
  if (device < 0) fail(argv[4]);
  if (ioctl(device, NBD_SET_BLKSIZE, 512UL) != 0) fail("NBD_SET_BLKSIZE");
  if (ioctl(device, NBD_SET_SIZE_BLOCKS, (unsigned long)(be64toh(answer.size) / 512)) != 0) fail("NBD_SET_SIZE_BLOCKS");
  if (ioctl(device, NBD_SET_FLAGS, (unsigned long)be16toh(answer.flags)) != 0) fail("NBD_SET_FLAGS");
  if (ioctl(device, NBD_SET_SOCK, link) != 0) fail("NBD_SET_SOCK");
  signal(SIGTERM, disconnect);
  ioctl(device, NBD_DO_IT); /* until it is disconnected */
  ioctl(device, NBD_CLEAR_SOCK);
  return 0;
}
