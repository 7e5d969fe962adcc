// -netdev tap and bridge, in a network namespace of the test's own: the far end is the kernel.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "fake_network.h"
#include "net/interface.h"
#include "net/kernel_tap.h"
#include "net/open.h"
#include "net/run_program.h"
#include "net/tap_backend.h"
#include "net/tap_options.h"

namespace ostler::net {
namespace {

using test::Card;
using test::frame;
using test::numbered_frame;

constexpr uint16_t kTestType = 0x88b5;  // of numbered_frame()

class TapTest : public testing::Test {
 protected:
  TapTest() : folder(testing::TempDir() + "ostler-tap-" + std::to_string(getpid())) {
    std::filesystem::create_directory(folder);
  }
  void SetUp() override {
    const int flags = geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET;
    ASSERT_EQ(unshare(flags), 0) << "run as root, or allow user namespaces: " << std::strerror(errno);
    ASSERT_TRUE(set_up("lo", true));  // for other tests of this process
    const Fd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(tun) << "/dev/net/tun: " << std::strerror(errno) << "; modprobe tun";
  }
  ~TapTest() override {
    thread.stop();
    backend.reset();
    std::filesystem::remove_all(folder);
  }
  std::string try_open(const std::string& options, const std::string& type = "tap") {
    auto made = net::open(thread.loop, type, config::split_options(options));
    if (!made) return made.error().message();
    backend = *std::move(made);
    backend->attach(&card);
    return {};
  }
  void start(const std::string& options) {
    ASSERT_EQ(try_open(options), "");
    ASSERT_TRUE(set_up("tap7", true));
    host = packet_socket("tap7");
    thread.start();
  }
  // The host's side of an interface.
  static Fd packet_socket(const std::string& name) {
    Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kTestType)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kTestType);
    address.sll_ifindex = static_cast<int>(interface_index(name));
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  std::string host_receives() const {
    std::string bytes(4096, '\0');
    const ssize_t got = ::recv(host.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  }
  void host_sends(const std::string& bytes) const {
    EXPECT_EQ(::send(host.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  // The kernel sends frames of its own, too.
  bool card_gets(const std::string& bytes) {
    return !card.wait_for([&](const std::string& each) { return each == bytes; }).empty();
  }
  static bool running(const std::string& name) {
    const Fd fd(::socket(AF_INET, SOCK_DGRAM, 0));
    ifreq asked{};
    std::memcpy(asked.ifr_name, name.data(), name.size());
    return ::ioctl(fd.get(), SIOCGIFFLAGS, &asked) == 0 && (asked.ifr_flags & IFF_RUNNING) != 0;
  }
  std::string script(const std::string& name, const std::string& lines) const {
    const std::string path = folder + "/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << lines << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  const std::string folder;
  Card card;
  Fd host;
  test::LoopThread thread;
  std::unique_ptr<Backend> backend;
};

TEST_F(TapTest, frames_both_ways) {
  start("ifname=tap7,script=no,downscript=no");
  EXPECT_TRUE(backend->send(frame(numbered_frame(1)), 0));
  EXPECT_EQ(host_receives(), numbered_frame(1));
  host_sends(numbered_frame(2));
  EXPECT_TRUE(card_gets(numbered_frame(2)));
}

// A card with room of its own for the first bytes of each frame, which it hands back while it is closed.
struct LendingCard : Card {
  Receipt receive_from(FrameSource& source, unsigned queue) override {
    iovec places[] = {{first, 20}, {first + 20, sizeof first - 20}};
    const auto taken = source.take(places);
    if (!taken) return Receipt::kNothing;
    std::vector<std::byte> whole(first, first + taken->bytes - taken->rest.size());
    whole.insert(whole.end(), taken->rest.begin(), taken->rest.end());
    if (receive({whole, taken->header}, queue)) return Receipt::kFrame;
    source.put_back(whole);
    const std::lock_guard lock(mutex);
    ++refused;
    changed.notify_all();
    return Receipt::kNoRoom;
  }
  bool gets(const std::string& bytes) {
    return !wait_for([&](const std::string& each) { return each == bytes; }).empty();
  }
  std::byte first[100];
  int refused = 0;
};

class TapLendingTest : public TapTest, public testing::WithParamInterface<const char*> {
 protected:
  ~TapLendingTest() override {
    thread.stop();
    backend.reset();  // before its card
  }
  LendingCard lending;
};

TEST_P(TapLendingTest, frames_are_read_into_the_cards_memory) {
  ASSERT_EQ(try_open("ifname=tap7,script=no,downscript=no,vnet_hdr=" + std::string(GetParam())), "");
  backend->attach(&lending);
  ASSERT_TRUE(set_up("tap7", true));
  host = packet_socket("tap7");
  thread.start();
  host_sends(numbered_frame(1, 1000));
  EXPECT_TRUE(lending.gets(numbered_frame(1, 1000)));
  host_sends(numbered_frame(2, 60));
  EXPECT_TRUE(lending.gets(numbered_frame(2, 60)));
  lending.set_open(false);
  host_sends(numbered_frame(3, 1000));
  host_sends(numbered_frame(4, 1000));
  EXPECT_TRUE(lending.wait([&] { return lending.refused != 0; }));
  lending.set_open(true);
  backend->receiver_ready(0);
  EXPECT_TRUE(lending.gets(numbered_frame(3, 1000)));
  EXPECT_TRUE(lending.gets(numbered_frame(4, 1000)));
}

INSTANTIATE_TEST_SUITE_P(Headers, TapLendingTest, testing::Values("on", "off"));

TEST_F(TapTest, frames_both_ways_without_headers) {
  start("ifname=tap7,script=no,downscript=no,vnet_hdr=off");
  EXPECT_EQ(backend->send_offloads(), 0u);
  EXPECT_TRUE(backend->send(frame(numbered_frame(1)), 0));
  EXPECT_EQ(host_receives(), numbered_frame(1));
  host_sends(numbered_frame(2));
  EXPECT_TRUE(card_gets(numbered_frame(2)));
}

TEST_F(TapTest, a_card_without_room_gets_its_frame_later) {
  start("ifname=tap7,script=no,downscript=no");
  card.set_open(false);
  for (unsigned i = 0; i < 5; ++i) host_sends(numbered_frame(i));
  card.set_open(true);
  // Whenever the card has room, whether the frame was refused by then or not.
  for (bool all = false; !all;) {
    backend->receiver_ready(0);
    const std::lock_guard lock(card.mutex);
    all = std::count_if(card.frames.begin(), card.frames.end(),
                        [](const std::string& each) { return each.substr(12, 2) == "\x88\xb5"; }) == 5;
  }
}

TEST_F(TapTest, offloads_are_those_of_the_kernel) {
  start("ifname=tap7,script=no,downscript=no");
  EXPECT_NE(backend->send_offloads() & kChecksum, 0u);
  EXPECT_NE(backend->send_offloads() & kTso4, 0u);
  backend->set_receive_offloads(kChecksum | kTso4);
  // A checksum that is left to the kernel: over bytes 34 to the end, stored at byte 40.
  std::string bytes = numbered_frame(1);
  VnetHeader header;
  header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  header.csum_start = 34;
  header.csum_offset = 6;
  EXPECT_TRUE(backend->send({std::as_bytes(std::span(bytes)), header}, 0));
  EXPECT_EQ(host_receives().size(), bytes.size());
}

TEST_F(TapTest, headers_without_sense_are_lost) {
  start("ifname=tap7,script=no,downscript=no");
  std::string bytes = numbered_frame(1);
  for (const VnetHeader& header : {VnetHeader{.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff},
                                   VnetHeader{.flags = 1, .gso_type = 0x7f},
                                   VnetHeader{.gso_type = 1, .hdr_len = 0xffff, .gso_size = 0}})
    EXPECT_TRUE(backend->send({std::as_bytes(std::span(bytes)), header}, 0));
  EXPECT_TRUE(backend->send(frame(numbered_frame(2)), 0));
  EXPECT_EQ(host_receives(), numbered_frame(2));
}

TEST_F(TapTest, several_queues) {
  start("ifname=tap7,script=no,downscript=no,queues=3");
  EXPECT_EQ(backend->queue_pairs(), 3u);
  backend->set_active_queues(3);
  for (unsigned queue = 0; queue < 3; ++queue) {
    EXPECT_TRUE(backend->send(frame(numbered_frame(queue)), queue));
    EXPECT_EQ(host_receives(), numbered_frame(queue));
  }
  EXPECT_TRUE(backend->send(frame(numbered_frame(9)), 3));  // no such queue: lost
  backend->set_active_queues(1);
  host_sends(numbered_frame(5));
  EXPECT_TRUE(card_gets(numbered_frame(5)));
  EXPECT_EQ(card.last_queue, 0u);
}

TEST_F(TapTest, the_cable_is_told_to_the_host) {
  start("ifname=tap7,script=no,downscript=no");
  // The kernel tells of a carrier a moment later.
  backend->set_link(false);
  while (running("tap7")) std::this_thread::yield();
  backend->set_link(true);
  while (!running("tap7")) std::this_thread::yield();
}

TEST_F(TapTest, a_removed_interface_takes_the_link_down) {
  start("ifname=tap7,script=no,downscript=no");
  ASSERT_TRUE(run_program({"ip", "link", "del", "tap7"}));
  ASSERT_TRUE(card.wait([&] { return !card.links.empty(); }));
  EXPECT_FALSE(card.links[0]);
  EXPECT_FALSE(backend->link_up());
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(backend->send(frame(numbered_frame(1)), 0));
}

TEST_F(TapTest, scripts_get_the_name) {
  const std::string up = script("up", "echo up $1 >>" + folder + "/log");
  const std::string down = script("down", "echo down $1 >>" + folder + "/log");
  ASSERT_EQ(try_open("ifname=tap7,script=" + up + ",downscript=" + down), "");
  backend.reset();
  std::ifstream log(folder + "/log");
  const std::string text((std::istreambuf_iterator<char>(log)), {});
  EXPECT_EQ(text, "up tap7\ndown tap7\n");
}

TEST_F(TapTest, a_script_that_fails_is_told) {
  const std::string up = script("up", "exit 3");
  EXPECT_EQ(try_open("ifname=tap7,script=" + up),
            "script (script=no leaves it out): " + up + " failed with status 3");
  EXPECT_NE(try_open("ifname=tap7,script=/no/such").find("/no/such is not there"), std::string::npos);
}

TEST_F(TapTest, a_bridge_with_this_program_as_its_helper) {
  EXPECT_NE(try_open("br=br7,helper=no", "bridge").find("ip link add br7 type bridge"), std::string::npos);
  ASSERT_TRUE(make_bridge("br7"));
  EXPECT_TRUE(is_bridge("br7"));
  EXPECT_FALSE(is_bridge("lo"));
  EXPECT_FALSE(is_bridge("none"));
  ASSERT_TRUE(set_up("br7", true));
  ASSERT_EQ(try_open("br=br7,helper=no", "bridge"), "");
  host = packet_socket("br7");
  thread.start();
  // The bridge forwards once it has noticed that its new port is on, and only what comes from one station.
  std::string sent = numbered_frame(1);
  sent.replace(6, 6, std::string("\x52\x54\x00\x12\x34\x56", 6));
  std::string bytes(4096, '\0');
  ssize_t got = -1;
  while (got < 0) {
    EXPECT_TRUE(backend->send(frame(sent), 0));
    got = ::recv(host.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0) std::this_thread::yield();
  }
  EXPECT_EQ(bytes.substr(0, static_cast<size_t>(got)), sent);
  thread.stop();
  backend.reset();
  EXPECT_TRUE(remove_bridge("br7"));
  EXPECT_EQ(interface_index("br7"), 0u);
}

TEST_F(TapTest, an_inherited_descriptor) {
  TapOptions options;
  options.ifname = "tap7";
  auto device = TapDevice::open(options);
  ASSERT_TRUE(device) << device.error().message();
  start("fd=" + std::to_string(device->queues[0].release()));
  EXPECT_TRUE(backend->send(frame(numbered_frame(1)), 0));
  EXPECT_EQ(host_receives(), numbered_frame(1));
}

// What became of vhost-net with these options, and what was said.
struct Vhost {
  std::string error, told;
  bool there = false;
};
Vhost open_vhost(const std::string& words, const char* device) {
  Vhost result;
  auto options = parse_tap(config::split_options(words));
  if (!options) return {.error = options.error().message(), .told = {}};
  options->vhost_device = device;
  testing::internal::CaptureStderr();
  auto tap = KernelTap::open(*options);
  result.told = testing::internal::GetCapturedStderr();
  if (!tap) return {.error = tap.error().message(), .told = result.told};
  result.there = (*tap)->has_vhost();
  return result;
}

constexpr const char* kPlain = "id=n,ifname=tap7,script=no,downscript=no";

TEST_F(TapTest, vhost_net_that_is_not_there_is_a_warning) {
  const auto result = open_vhost(std::string(kPlain) + ",vhost=on", "/dev/no-such-vhost-net");
  EXPECT_EQ(result.error, "");
  EXPECT_FALSE(result.there);
  EXPECT_EQ(std::count(result.told.begin(), result.told.end(), '\n'), 1) << result.told;
  EXPECT_NE(result.told.find("network 'n': vhost=on: /dev/no-such-vhost-net is not there: sudo modprobe"),
            std::string::npos)
      << result.told;
}

TEST_F(TapTest, vhost_net_that_must_be_there_is_an_error) {
  for (const char* words : {",vhostforce=on", ",vhost=on,vhostforce=on"}) {
    const auto result = open_vhost(std::string(kPlain) + words, "/dev/no-such-vhost-net");
    EXPECT_NE(result.error.find("vhostforce=on: /dev/no-such-vhost-net is not there"), std::string::npos)
        << result.error;
  }
}

TEST_F(TapTest, vhost_net_once_for_each_queue_pair) {
  const auto result = open_vhost(std::string(kPlain) + ",vhost=on,queues=3", "/dev/null");
  EXPECT_EQ(result.error + result.told, "");
  EXPECT_TRUE(result.there);
  const int spare = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ASSERT_GE(spare, 0);
  const auto fewer =
      open_vhost(std::string(kPlain) + ",queues=2,vhostfds=" + std::to_string(spare), "/dev/no-such");
  EXPECT_NE(fewer.error.find("1 descriptors of vhost-net for 2 queue pairs"), std::string::npos)
      << fewer.error;
  EXPECT_EQ(::fcntl(spare, F_GETFD), -1) << "the descriptor is still open";
}

TEST_F(TapTest, an_inherited_descriptor_of_vhost_net) {
  const int inherited = ::open("/dev/null", O_RDWR);
  ASSERT_GE(inherited, 0);
  const auto result =
      open_vhost(std::string(kPlain) + ",vhostfd=" + std::to_string(inherited), "/dev/no-such-vhost-net");
  EXPECT_EQ(result.error + result.told, "");
  EXPECT_TRUE(result.there);
}

TEST_F(TapTest, what_is_no_vhost_net_is_told) {
  auto vhost = VhostNet::open("/dev/null");
  ASSERT_TRUE(vhost);
  const auto owned = vhost->own();
  ASSERT_FALSE(owned);
  EXPECT_NE(owned.error().message().find("is not an open /dev/vhost-net: look at vhostfd"), std::string::npos)
      << owned.error().message();
}

TEST_F(TapTest, the_downscript_of_a_kernel_tap_runs_at_its_end) {
  const std::string down = script("down", "echo $1 >>" + folder + "/ended");
  const std::string words = "id=n,ifname=tap7,script=no,vhost=on,downscript=" + down;
  EXPECT_TRUE(open_vhost(words, "/dev/null").there);
  std::string name;
  std::ifstream(folder + "/ended") >> name;
  EXPECT_EQ(name, "tap7");
}

// A card that the kernel cannot serve has it from this process.
TEST_F(TapTest, a_kernel_tap_becomes_a_back_end) {
  auto options = parse_tap(config::split_options(std::string(kPlain) + ",vhost=on"));
  ASSERT_TRUE(options);
  options->vhost_device = "/dev/null";
  auto tap = KernelTap::open(*options);
  ASSERT_TRUE(tap) << tap.error().message();
  backend = std::make_unique<TapBackend>(thread.loop, (*tap)->take_device(), "n");
  backend->attach(&card);
  ASSERT_TRUE(set_up("tap7", true));
  host = packet_socket("tap7");
  thread.start();
  EXPECT_TRUE(backend->send(frame(numbered_frame(1)), 0));
  EXPECT_EQ(host_receives(), numbered_frame(1));
}

TEST_F(TapTest, mistakes_are_told_with_their_cure) {
  ASSERT_EQ(try_open("ifname=tap7,script=no,downscript=no"), "");
  const auto first = std::move(backend);
  EXPECT_NE(try_open("ifname=tap7,script=no").find("tap7 is in use by another program"), std::string::npos);
  EXPECT_NE(try_open("ifname=lo,script=no").find("ip tuntap add"), std::string::npos);
  EXPECT_NE(try_open("ifname=a/b,script=no").find("'a/b' is not an interface's name"), std::string::npos);
  EXPECT_NE(try_open("fds=x:1").find("fds: "), std::string::npos);
  EXPECT_NE(try_open("vhost=off,vhostforce=on").find("do not go with vhost=off"), std::string::npos);
  EXPECT_NE(try_open("vhost=off,vhostfds=7:8").find("do not go with vhost=off"), std::string::npos);
  EXPECT_NE(try_open("vhost=on,vhostfds=7:x").find("vhostfds: "), std::string::npos);
  EXPECT_NE(try_open("vhost=on,vhostfd=7,vhostfds=8").find("give vhostfd or vhostfds"), std::string::npos);
  EXPECT_NE(try_open("vhost=on,fds=7:8,vhostfds=8:9").find("not both"), std::string::npos);
  EXPECT_NE(try_open("fd=7,ifname=x").find("do not go with fd"), std::string::npos);
  const Fd pipe(::open("/dev/null", O_RDWR));
  EXPECT_NE(try_open("fd=" + std::to_string(::dup(pipe.get()))).find("is not a tap device"),
            std::string::npos);
}

TEST_F(TapTest, without_the_right_the_command_is_told) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    none[0].effective = none[0].permitted = 1u << CAP_DAC_OVERRIDE;
    ::syscall(SYS_capset, &header, none);
    const std::string message = try_open("ifname=tap7,script=no");
    static_cast<void>(::write(ends[1], message.data(), message.size()) == 0);
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string message(4096, '\0');
  const ssize_t got = ::read(ends[0], message.data(), message.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  message.resize(got > 0 ? static_cast<size_t>(got) : 0);
  EXPECT_NE(message.find("sudo ip tuntap add dev tap7 mode tap user $USER"), std::string::npos) << message;
  EXPECT_NE(message.find("sudo setcap cap_net_admin"), std::string::npos);
}

}  // namespace
}  // namespace ostler::net
