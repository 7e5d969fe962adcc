// The other side of an NBD server: a socket with blocking calls that sends whatever a test wants, and reads
// replies in pieces.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "base/fd.h"
#include "block/nbd/protocol.h"
#include "block/nbd/server.h"
#include "block_fixture.h"

namespace ostler::block::test {

class NbdPeer {
 public:
  explicit NbdPeer(const std::string& path) : socket_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  // False if the server has closed the connection.
  bool send(const std::string& bytes) {
    size_t sent = 0;
    while (sent != bytes.size()) {
      const ssize_t done = ::send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (done <= 0) return false;
      sent += static_cast<size_t>(done);
    }
    return true;
  }
  std::string receive(size_t bytes) {
    std::string result(bytes, '\0');
    size_t done = 0;
    while (done != bytes) {
      const ssize_t got = recv(socket_.get(), result.data() + done, bytes - done, 0);
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    result.resize(done);
    return result;
  }
  template <class T>
  T receive_be() {
    const std::string bytes = receive(sizeof(T));
    return bytes.size() == sizeof(T) ? nbd::load_be<T>(bytes.data()) : T{};
  }
  bool is_closed() { return receive(1).empty(); }
  void close() { socket_.reset(); }

  // --- negotiation ---
  void greet(uint32_t client_flags = nbd::kFixedNewstyle | nbd::kNoZeroes) {
    EXPECT_EQ(receive_be<uint64_t>(), nbd::kInitMagic);
    EXPECT_EQ(receive_be<uint64_t>(), nbd::kOptionMagic);
    EXPECT_EQ(receive_be<uint16_t>(), nbd::kFixedNewstyle | nbd::kNoZeroes);
    std::string bytes;
    nbd::append_be(bytes, client_flags);
    send(bytes);
  }
  bool option(nbd::Option option, const std::string& data = {}) {
    std::string bytes;
    nbd::append_be(bytes, nbd::kOptionMagic);
    nbd::append_be(bytes, static_cast<uint32_t>(option));
    nbd::append_be(bytes, static_cast<uint32_t>(data.size()));
    return send(bytes + data);
  }
  // The type of the next reply; its data.
  nbd::OptionReply reply(std::string* data = nullptr) {
    EXPECT_EQ(receive_be<uint64_t>(), nbd::kOptionReplyMagic);
    receive_be<uint32_t>();
    const auto type = receive_be<uint32_t>();
    const std::string content = receive(receive_be<uint32_t>());
    if (data != nullptr) *data = content;
    return static_cast<nbd::OptionReply>(type);
  }
  nbd::OptionReply ask(nbd::Option name, const std::string& data = {}) {
    return option(name, data) ? reply() : nbd::OptionReply{};
  }
  static std::string text(const std::string& content) {
    std::string bytes;
    nbd::append_be(bytes, static_cast<uint32_t>(content.size()));
    return bytes + content;
  }
  // NBD_OPT_GO's data: a name and no wishes.
  static std::string go_data(const std::string& name = {}) {
    std::string bytes = text(name);
    nbd::append_be(bytes, uint16_t{0});
    return bytes;
  }
  static std::string query_data(const std::string& name, const std::vector<std::string>& queries) {
    std::string bytes = text(name);
    nbd::append_be(bytes, static_cast<uint32_t>(queries.size()));
    for (const std::string& query : queries) bytes += text(query);
    return bytes;
  }
  // The whole negotiation; the size and flags that the server tells.
  void go(bool structured = false, const std::vector<std::string>& contexts = {}) {
    greet();
    if (structured) {
      EXPECT_EQ(ask(nbd::Option::kStructuredReply), nbd::OptionReply::kAck);
    }
    if (!contexts.empty()) {
      option(nbd::Option::kSetMetaContext, query_data("", contexts));
      for (;;) {
        if (reply() != nbd::OptionReply::kMetaContext) break;
      }
    }
    option(nbd::Option::kGo, go_data());
    std::string data;
    for (nbd::OptionReply type = reply(&data); type == nbd::OptionReply::kInfo; type = reply(&data))
      if (nbd::load_be<uint16_t>(data.data()) == 0) {
        size = nbd::load_be<uint64_t>(data.data() + 2);
        flags = nbd::load_be<uint16_t>(data.data() + 10);
      }
  }

  // --- transmission ---
  bool request(nbd::Command command, uint64_t offset, uint32_t length, uint16_t request_flags = 0,
               uint64_t cookie = 1) {
    std::string bytes;
    nbd::append_be(bytes, nbd::kRequestMagic);
    nbd::append_be(bytes, request_flags);
    nbd::append_be(bytes, static_cast<uint16_t>(command));
    nbd::append_be(bytes, cookie);
    nbd::append_be(bytes, offset);
    nbd::append_be(bytes, length);
    return send(bytes);
  }
  // The error of a simple reply.
  uint32_t simple_reply(uint64_t cookie = 1) {
    EXPECT_EQ(receive_be<uint32_t>(), nbd::kSimpleReplyMagic);
    const auto error = receive_be<uint32_t>();
    EXPECT_EQ(receive_be<uint64_t>(), cookie);
    return error;
  }
  uint32_t ask(nbd::Command command, uint64_t offset, uint32_t length, uint16_t request_flags = 0) {
    request(command, offset, length, request_flags);
    return simple_reply();
  }
  uint32_t write(uint64_t offset, const std::string& content, uint16_t request_flags = 0) {
    request(nbd::Command::kWrite, offset, static_cast<uint32_t>(content.size()), request_flags);
    send(content);
    return simple_reply();
  }
  struct Reply {
    bool done;
    nbd::Chunk type;
    std::string data;
  };
  Reply chunk(uint64_t cookie = 1) {
    EXPECT_EQ(receive_be<uint32_t>(), nbd::kStructuredReplyMagic);
    const auto chunk_flags = receive_be<uint16_t>();
    const auto type = static_cast<nbd::Chunk>(receive_be<uint16_t>());
    EXPECT_EQ(receive_be<uint64_t>(), cookie);
    return {chunk_flags == nbd::kReplyFlagDone, type, receive(receive_be<uint32_t>())};
  }

  uint64_t size = 0;
  uint16_t flags = 0;

 private:
  Fd socket_;
};

// A server on a thread of its own, with one disk.
class NbdServerTest : public BlockTest {
 protected:
  ~NbdServerTest() override { stop(); }

  std::string socket() const { return path("nbd.sock"); }
  // Of `file`, which is raw; `settings` without exports.
  void serve(const std::string& file, nbd::Export::Settings disk = {}, nbd::Server::Settings settings = {}) {
    node_ = open(file, "raw", !disk.read_only);
    Permissions permissions;
    if (!disk.read_only) permissions.used |= kPermissionWrite;
    auto client = Client::attach(node_, "nbd server", permissions);
    ASSERT_TRUE(client);
    serve(*client, std::move(disk), std::move(settings));
  }
  void serve(std::shared_ptr<Client> client, nbd::Export::Settings disk, nbd::Server::Settings settings) {
    auto made = nbd::Export::create(std::move(client), std::move(disk));
    ASSERT_TRUE(made) << made.error().message();
    settings.exports = {*made};
    server = std::make_unique<nbd::Server>(std::move(settings));
    const auto listening = server->listen_on_path(socket());
    ASSERT_TRUE(listening);
    thread_ = std::thread([this] {
      IoContext own;
      own.run_until(server->run());
    });
  }
  void wait() {
    if (thread_.joinable()) thread_.join();
    server = nullptr;
    if (node_) close(node_);
  }
  void stop() {
    if (server) server->stop();
    wait();
  }

  std::unique_ptr<nbd::Server> server;

 private:
  NodePtr node_;
  std::thread thread_;
};

}  // namespace ostler::block::test
