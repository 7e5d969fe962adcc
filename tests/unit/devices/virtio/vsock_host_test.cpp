// virtio-vsock: programs of the host that come, half close and go; and the sockets where they do.
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "devices/virtio/vsock/unix_host.h"
#include "support/no_descriptors.h"
#include "vsock_fixture.h"

namespace ostler::virtio::vsock::test {
namespace {

class VsockHostTest : public VsockTest {
 protected:
  static constexpr uint32_t kHostPort = SocketDevice::kFirstHostPort;
  // A program that is connected with port 5 of the guest.
  Fd& join_guest() {
    Fd& program = arrive("CONNECT 5\n");
    EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_REQUEST});
    send(VIRTIO_VSOCK_OP_RESPONSE, {5, kHostPort});
    EXPECT_EQ(read_all(program), "OK 1073741824\n");
    return program;
  }
};

TEST_F(VsockHostTest, program_reaches_the_guest) {
  Fd& program = arrive("CONNECT 5\nearly");
  const auto request = packets();
  ASSERT_EQ(request.size(), 1u);
  EXPECT_EQ(request[0].header.op, VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(request[0].header.src_cid, kHostCid);
  EXPECT_EQ(request[0].header.dst_cid, kCid);
  EXPECT_EQ(request[0].header.src_port, kHostPort);
  EXPECT_EQ(request[0].header.dst_port, 5u);
  EXPECT_EQ(request[0].header.buf_alloc, Connection::kBufferBytes);
  EXPECT_EQ(operations(), Ops{});  // no data before the answer
  EXPECT_EQ(read_all(program), "");
  send(VIRTIO_VSOCK_OP_RESPONSE, {5, kHostPort});
  EXPECT_EQ(read_all(program), "OK 1073741824\n");
  EXPECT_EQ(take_all().second, "early");
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "hello");
  EXPECT_EQ(read_all(program), "hello");
}

TEST_F(VsockHostTest, greeting_may_come_in_pieces) {
  Fd& program = arrive("CONN");
  write_some(program, "ECT 42949");
  EXPECT_EQ(operations(), Ops{});
  write_some(program, "67295\n");
  turn();
  EXPECT_EQ(packets().at(0).header.dst_port, 4294967295u);
}

TEST_F(VsockHostTest, wrong_greetings_end_the_connection) {
  for (const char* text :
       {"HELLO 5\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT 5x\n", "CONNECT -1\n",
        "CONNECT 4294967296\n", "connect 5\n", "\n", "CONNECT 00000000000000000000000000000000000000005\n"}) {
    EXPECT_TRUE(closed(arrive(text))) << text;
    EXPECT_EQ(device->connections(), 0u);
    EXPECT_EQ(operations(), Ops{});
  }
}

TEST_F(VsockHostTest, program_that_leaves_in_its_greeting_is_forgotten) {
  arrive("CONN").reset();
  turn();
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockHostTest, guest_refuses) {
  Fd& program = arrive("CONNECT 5\n");
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_REQUEST});
  send(VIRTIO_VSOCK_OP_RST, {5, kHostPort});
  turn();
  EXPECT_TRUE(ended(program));
  EXPECT_EQ(operations(), Ops{});
}

TEST_F(VsockHostTest, answer_before_the_request_was_told_is_none) {
  start(0);
  (void)arrive("CONNECT 5\n");
  send(VIRTIO_VSOCK_OP_RESPONSE, {5, kHostPort});
  turn();
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockHostTest, data_before_the_answer_end_the_connection) {
  (void)arrive("CONNECT 5\n");
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_REQUEST});
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "x");
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST});
}

TEST_F(VsockHostTest, program_that_leaves_before_the_answer_withdraws_its_request) {
  arrive("CONNECT 5\n").reset();
  turn();
  EXPECT_EQ(operations(), (Ops{VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RST}));
}

TEST_F(VsockHostTest, each_connection_has_a_port) {
  (void)arrive("CONNECT 5\n");
  (void)arrive("CONNECT 5\n");
  const auto all = packets();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_NE(all[0].header.src_port, all[1].header.src_port);
}

// --- ends ---

TEST_F(VsockHostTest, program_closes_after_its_data) {
  Fd& program = join_guest();
  const std::string content(9000, 'z');
  write_some(program, content);
  program.reset();
  EXPECT_EQ(take_all().second, content);
  EXPECT_EQ(device->connections(), 1u);
  send(VIRTIO_VSOCK_OP_RST, {5, kHostPort});
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockHostTest, close_is_told_as_both_ends_and_confirmed_in_time) {
  join_guest().reset();
  turn();
  const auto all = packets();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(all[0].header.flags, kShutdownBoth);
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "late");  // on its way meanwhile: nobody gets it
  pass(SocketDevice::kCloseNs - 1);
  EXPECT_EQ(operations(), Ops{});
  pass(1);
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST});
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockHostTest, program_sends_no_more_but_reads) {
  Fd& program = join_guest();
  ::shutdown(program.get(), SHUT_WR);
  turn();
  const auto all = packets();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(all[0].header.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "still");
  EXPECT_EQ(read_all(program), "still");
  program.reset();
  turn();
  EXPECT_EQ(packets().at(0).header.flags, kShutdownBoth);
}

TEST_F(VsockHostTest, program_reads_no_more_but_sends) {
  Fd& program = join_guest();
  ::shutdown(program.get(), SHUT_RD);
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "unwanted");
  const auto all = packets();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(all[0].header.flags, VIRTIO_VSOCK_SHUTDOWN_RCV);
  write_some(program, "more");
  EXPECT_EQ(take_all().second, "more");
}

TEST_F(VsockHostTest, guest_sends_no_more_but_reads) {
  Fd& program = join_guest();
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "last");
  send(VIRTIO_VSOCK_OP_SHUTDOWN, {5, kHostPort}, {}, VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_EQ(read_all(program), "last");
  EXPECT_TRUE(ended(program));
  write_some(program, "answer");
  EXPECT_EQ(take_all(), std::pair(Ops{}, std::string("answer")));
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "after all");
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST});
}

TEST_F(VsockHostTest, guest_reads_no_more) {
  Fd& program = join_guest();
  send(VIRTIO_VSOCK_OP_SHUTDOWN, {5, kHostPort}, {}, VIRTIO_VSOCK_SHUTDOWN_RCV);
  EXPECT_EQ(write_some(program, "x"), 0u);
  EXPECT_EQ(operations(), Ops{});
  send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, "last");
  EXPECT_EQ(read_all(program), "last");
}

TEST_F(VsockHostTest, guest_closes_and_the_program_gets_the_rest) {
  Fd& program = join_guest();
  const std::string content(Connection::kBufferBytes / 2, 'c');
  std::string sent;
  for (int i = 0; i < 6; ++i) {
    send(VIRTIO_VSOCK_OP_RW, {5, kHostPort}, content);
    sent += content;
    (void)packets();
    if (device->connections() == 0) break;
    // Until something must be kept: the guest has no more credit then than it has seen.
    send(VIRTIO_VSOCK_OP_CREDIT_REQUEST, {5, kHostPort});
    if (packets().at(0).header.fwd_cnt != sent.size()) break;
  }
  ASSERT_EQ(device->connections(), 1u);
  send(VIRTIO_VSOCK_OP_SHUTDOWN, {5, kHostPort}, {}, kShutdownBoth);
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST});
  std::string seen;
  for (int i = 0; i < 100 && seen.size() < sent.size(); ++i) {
    seen += read_all(program);
    turn();
  }
  EXPECT_EQ(seen, sent);
  turn();
  EXPECT_TRUE(ended(program));
  EXPECT_EQ(device->connections(), 0u);
}

// --- UNIX sockets ---

class UnixHostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "vsock.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string path() const { return folder / "s"; }
  static Fd connect_to(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, path.data(), path.size());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) return {};
    return fd;
  }
  std::filesystem::path folder;
  event::VirtualClock clock;
  event::Loop loop{clock};
};

TEST_F(UnixHostTest, programs_connect_to_the_path) {
  auto host = UnixHost::create(loop, path());
  ASSERT_TRUE(host);
  std::vector<Fd> come;
  (*host)->listen([&](Fd fd) { come.push_back(std::move(fd)); });
  const Fd program = connect_to(path());
  ASSERT_TRUE(program);
  loop.post([&] { loop.stop(); });
  loop.run();
  ASSERT_EQ(come.size(), 1u);
  write_some(come[0], "hello");
  EXPECT_EQ(read_all(program), "hello");
}

TEST_F(UnixHostTest, programs_wait_while_there_is_no_descriptor_for_them) {
  auto host = UnixHost::create(loop, path());
  ASSERT_TRUE(host);
  std::vector<Fd> come;
  (*host)->listen([&](Fd fd) { come.push_back(std::move(fd)); });
  const Fd program = connect_to(path());
  const auto turn = [&] {
    loop.post([&] { loop.stop(); });
    loop.run();
  };
  {
    const ostler::test::NoDescriptors limit;
    for (int i = 0; i < 3; ++i) turn();
    EXPECT_TRUE(loop.host_timer_armed()) << "the loop would not sleep";
  }
  loop.skip_host_time(1'000'000'000);
  while (come.empty()) turn();
}

TEST_F(UnixHostTest, ports_are_served_beside_it) {
  auto host = UnixHost::create(loop, path());
  auto other = UnixHost::create(loop, path() + "_52");  // a listener as any
  ASSERT_TRUE(host && other);
  EXPECT_TRUE((*host)->connect(52));
  EXPECT_FALSE((*host)->connect(53));
  other->reset();
  EXPECT_FALSE((*host)->connect(52));
}

TEST_F(UnixHostTest, path_goes_with_it) {
  {
    auto host = UnixHost::create(loop, path());
    ASSERT_TRUE(host);
    EXPECT_TRUE(std::filesystem::exists(path()));
  }
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(UnixHostTest, path_left_by_a_dead_process_is_taken) {
  {
    const Fd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string at = path();
    std::memcpy(name.sun_path, at.data(), at.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path()));
  EXPECT_TRUE(UnixHost::create(loop, path()));
}

TEST_F(UnixHostTest, path_in_use_is_an_error) {
  const auto host = UnixHost::create(loop, path());
  ASSERT_TRUE(host);
  auto second = UnixHost::create(loop, path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
}

TEST_F(UnixHostTest, path_of_a_file_stays) {
  std::filesystem::create_directory(path());
  EXPECT_FALSE(UnixHost::create(loop, path()));
  EXPECT_TRUE(std::filesystem::exists(path()));
}

TEST_F(UnixHostTest, path_too_long_for_its_ports_is_an_error) {
  for (const std::string& wrong : {std::string(), std::string(97, 'x')}) {
    auto host = UnixHost::create(loop, wrong);
    ASSERT_FALSE(host);
    EXPECT_EQ(host.error().kind(), ErrorKind::kInvalidArgument);
  }
}

}  // namespace
}  // namespace ostler::virtio::vsock::test
