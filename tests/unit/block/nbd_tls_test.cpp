// TLS between our server and our client with shared keys, which need no other program. Certificates, and
// other programs as peers: tests/nbd/tls_tests.py.
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <nlohmann/json.hpp>

#include "block/nbd/nbd_node.h"
#include "block/nbd/tls_objects.h"
#include "block/nbd/tls_tunnel.h"
#include "nbd_peer.h"

namespace ostler::block::test {
namespace {

using nbd::TlsEndpoint;
using namespace std::string_literals;

constexpr const char* kAlice = "alice:00112233445566778899aabbccddeeff\n";
constexpr const char* kQemu = "qemu:ffeeddccbbaa99887766554433221100\n";
constexpr size_t kDiskBytes = 8 << 20;

class NbdTls : public NbdServerTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(path("keys"));
    make_file("keys/keys.psk", std::string(kAlice) + kQemu);
  }
  // "" or the error.
  std::string add(const std::string& id, const nlohmann::json& options,
                  std::string_view type = nbd::kTlsKeys) {
    auto added = nbd::add_tls_object(opener, type, id, OptionReader(options, "object"));
    return added ? "" : added.error().message();
  }
  nlohmann::json keys(const char* endpoint) const { return {{"dir", path("keys")}, {"endpoint", endpoint}}; }
  void serve_with_tls(const std::string& content) {
    ASSERT_EQ(add("ours", keys("server")), "");
    serve(make_file("disk", content), {.name = "disk"}, {.tls = opener.tls("ours"), .most_clients = 4});
  }
  nlohmann::json remote(const std::string& credentials) const {
    return {{"driver", "nbd"},
            {"server", {{"type", "unix"}, {"path", socket()}}},
            {"export", "disk"},
            {"tls-creds", credentials}};
  }
  std::string connect_error(const nlohmann::json& options) {
    auto node = context.run_until(opener.open(options, {}));
    return node ? "" : node.error().message();
  }
};

std::string pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * 7) ^ (i >> 9));
  return bytes;
}

TEST_F(NbdTls, ContentGoesBothWays) {
  const std::string content = pattern(kDiskBytes);
  serve_with_tls(content);
  ASSERT_EQ(add("theirs", keys("client")), "");
  NodePtr disk = open_options(remote("theirs"));
  ASSERT_NE(disk, nullptr);
  // Much more than the buffers between hold.
  EXPECT_TRUE(read(*disk, 0, kDiskBytes) == content);
  const std::string other(content.rbegin(), content.rend());
  EXPECT_EQ(write(*disk, 0, other), 0);
  EXPECT_TRUE(read(*disk, 0, kDiskBytes) == other);
  close(disk);
  stop();
  EXPECT_TRUE(content_of(path("disk")) == other);
}

TEST_F(NbdTls, UsersAreKnownByTheirKeys) {
  serve_with_tls(std::string(4096, 'x'));
  auto options = keys("client");
  options["username"] = "alice";
  ASSERT_EQ(add("alice", options), "");
  NodePtr disk = open_options(remote("alice"), false);
  ASSERT_NE(disk, nullptr);
  EXPECT_EQ(read(*disk, 0, 4096), std::string(4096, 'x'));
  close(disk);
  std::filesystem::create_directory(path("wrong"));
  make_file("wrong/keys.psk", "alice:00000000000000000000000000000000\n");
  options["dir"] = path("wrong");
  ASSERT_EQ(add("mallory", options), "");
  EXPECT_NE(connect_error(remote("mallory")).find("no TLS with this server"), std::string::npos);
}

TEST_F(NbdTls, OptionsThatANodeTellsOpenItAgain) {
  serve_with_tls(std::string(4096, 'x'));
  ASSERT_EQ(add("theirs", keys("client")), "");
  auto asked = remote("theirs");
  asked["tls-hostname"] = "disks.example";
  NodePtr disk = open_options(asked, false);
  ASSERT_NE(disk, nullptr);
  const auto told = disk->options();
  EXPECT_EQ(told, asked);
  close(disk);
  disk = open_options(told, false);
  ASSERT_NE(disk, nullptr);
  close(disk);
}

TEST_F(NbdTls, AFolderIsTakenWhereNoObjectHasItsName) {
  serve_with_tls(std::string(4096, 'x'));
  NodePtr disk = open_options(remote(path("keys")), false);
  ASSERT_NE(disk, nullptr);
  close(disk);
  // An object of that name comes first.
  ASSERT_EQ(add(path("keys"), keys("server")), "");
  EXPECT_NE(connect_error(remote(path("keys"))).find("is for a server"), std::string::npos);
}

TEST_F(NbdTls, AServerThatEndsIsNoticed) {
  serve_with_tls(std::string(4096, 'x'));
  ASSERT_EQ(add("theirs", keys("client")), "");
  NodePtr disk = open_options(remote("theirs"), false);
  ASSERT_NE(disk, nullptr);
  stop();
  std::string bytes(512, '?');
  EXPECT_EQ(context.run_until(read_bytes(*disk, 0, bytes.data(), bytes.size())), -EIO);
  close(disk);
}

// The client's first bytes, its flags, are not passed on: the tunnel has told the server its own.
TEST_F(NbdTls, WhatFollowsTheClientsFlagsIsPassedOnWheneverItComes) {
  serve_with_tls(std::string(4096, 'x'));
  ASSERT_EQ(add("theirs", keys("client")), "");
  nbd::Remote place;
  place.path = socket();
  const nbd::MayWait wait = [] { return Result<void>(); };
  auto connected = nbd::dial(place, wait);
  ASSERT_TRUE(connected) << connected.error().message();
  auto tunnel = nbd::TlsTunnel::open(*std::move(connected), opener.tls("theirs"), "", wait);
  ASSERT_TRUE(tunnel) << tunnel.error().message();
  const Fd end = (*tunnel)->take_end();
  const auto receive = [&](size_t bytes) {
    std::string result(bytes, '\0');
    for (size_t have = 0; have != bytes;) {
      pollfd entry = {end.get(), POLLIN, 0};
      const ssize_t done =
          poll(&entry, 1, 20000) == 1 ? recv(end.get(), result.data() + have, bytes - have, 0) : 0;
      if (done <= 0) return result.substr(0, have);
      have += static_cast<size_t>(done);
    }
    return result;
  };
  EXPECT_EQ(receive(18).substr(0, 16), "NBDMAGICIHAVEOPT");
  ASSERT_EQ(send(end.get(), "\0\0\0\3", 4, 0), 4);
  for (int unread = 1; unread != 0;) ASSERT_EQ(ioctl(end.get(), SIOCOUTQ, &unread), 0);
  const std::string list("IHAVEOPT\0\0\0\3\0\0\0\0", 16);
  ASSERT_EQ(send(end.get(), list.data(), list.size(), 0), 16);
  EXPECT_EQ(receive(8), "\x00\x03\xe8\x89\x04\x55\x65\xa9"s) << "the magic number of an option's reply";
}

TEST_F(NbdTls, ServersWithoutTlsAreNotUsed) {
  serve(make_file("disk", std::string(4096, 'x')), {.name = "disk"});
  ASSERT_EQ(add("theirs", keys("client")), "");
  EXPECT_NE(connect_error(remote("theirs")).find("it has no TLS"), std::string::npos);
}

TEST_F(NbdTls, ClientsWithoutTlsAreNotServed) {
  serve_with_tls(std::string(4096, 'x'));
  auto options = remote("");
  options.erase("tls-creds");
  EXPECT_NE(connect_error(options), "");
}

TEST_F(NbdTls, MistakesInObjectsAreNamed) {
  const auto has = [](const std::string& text, std::string_view part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const auto with = [this](const char* endpoint, const char* key, const char* value) {
    auto options = keys(endpoint);
    options[key] = value;
    return options;
  };
  has(add("a", {{"endpoint", "client"}}), "object: option 'dir' is missing");
  has(add("a", {{"dir", ""}}, nbd::kTlsCertificates), "ca-cert.pem");
  has(add("a", with("client", "endpoint", "both")), "'endpoint'");
  has(add("a", with("client", "dir", "/nonexistent")), "object: /nonexistent/keys.psk is missing; psktool");
  has(add("a", with("client", "username", "bob")), "no key of the user 'bob'");
  has(add("a", with("server", "username", "bob")), "'username' is a client's");
  has(add("a", with("client", "priority", "NORMAL:+ROT13")), "GnuTLS does not know '+ROT13");
  has(add("a", with("client", "sanity-check", "on")), "sanity-check");
  has(add("a", keys("client"), nbd::kTlsCertificates), "keys/ca-cert.pem is missing; it says whose");
  has(add("a", keys("server"), nbd::kTlsCertificates), "keys/server-cert.pem is missing; certtool");
  has(add("a", with("client", "passwordid", "s"), nbd::kTlsCertificates), "there is no secret 's'");
  make_file("keys/keys.psk", "qemu:nothex\n");
  has(add("a", keys("client")), "keys/keys.psk: ");
  EXPECT_EQ(opener.tls("a"), nullptr);
}

TEST_F(NbdTls, AnIdIsGivenOnce) {
  EXPECT_EQ(add("a", keys("client")), "");
  EXPECT_NE(add("a", keys("client")).find("there is an object 'a' already"), std::string::npos);
  EXPECT_FALSE(opener.add_secret("a", "x"));
  ASSERT_TRUE(opener.add_secret("s", "x"));
  EXPECT_NE(add("s", keys("client")), "");
}

TEST_F(NbdTls, TheOtherEndpointIsRefusedWithACure) {
  ASSERT_EQ(add("s", keys("server")), "");
  ASSERT_EQ(add("c", {{"dir", path("keys")}}), "") << "endpoint=client is what is meant without";
  const auto error = [this](const char* name, TlsEndpoint endpoint) {
    const auto found = nbd::find_tls(opener, name, endpoint);
    return found ? "" : found.error().message();
  };
  EXPECT_EQ(error("s", TlsEndpoint::kServer), "");
  EXPECT_EQ(error("c", TlsEndpoint::kClient), "");
  EXPECT_EQ(error("s", TlsEndpoint::kClient),
            "tls-creds: the object 's' is for a server, and this is a client; give it endpoint=client");
  EXPECT_EQ(error("c", TlsEndpoint::kServer),
            "tls-creds: the object 'c' is for a client, and this is a server; give it endpoint=server");
  EXPECT_NE(error("x", TlsEndpoint::kServer).find("--object tls-creds-x509,id=x,dir=DIR,endpoint=server"),
            std::string::npos);
}

}  // namespace
}  // namespace ostler::block::test
