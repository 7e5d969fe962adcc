#include "config/qemu_nbd_options.h"

#include <gtest/gtest.h>

#include <initializer_list>

#include "config/ostler_command_line.h"
#include "config/qemu_command_line.h"

namespace ostler::config {
namespace {

Result<CommandLine> parse(std::initializer_list<const char*> words) {
  return parse_qemu_command_line(std::vector<std::string>(words.begin(), words.end()));
}

std::string error(std::initializer_list<const char*> words) {
  const auto parsed = parse(words);
  return parsed ? "" : parsed.error().message();
}

TEST(QemuNbdOptions, AServerOnAUnixSocket) {
  for (const char* text : {"/run/x", "addr.path=/run/x", "addr.type=unix,addr.path=/run/x",
                           R"({"addr":{"type":"unix","path":"/run/x"}})"}) {
    SCOPED_TRACE(text);
    const auto parsed = parse({"-nbd-server", text});
    ASSERT_TRUE(parsed) << parsed.error().message();
    const auto server = nbd_server(parsed->machine.objects.at(0));
    ASSERT_TRUE(server) << server.error().message();
    EXPECT_EQ(server->path, "/run/x");
    EXPECT_EQ(server->most_clients, 100u);
  }
}

TEST(QemuNbdOptions, AServerOnAPort) {
  const auto parsed =
      parse({"-nbd-server", "addr.type=inet,addr.host=h,addr.port=7,tls-creds=keys,max-connections=0"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  const auto server = nbd_server(parsed->machine.objects.at(0));
  ASSERT_TRUE(server);
  EXPECT_EQ(server->path, "");
  EXPECT_EQ(server->host, "h");
  EXPECT_EQ(server->port, 7);
  EXPECT_EQ(server->tls_credentials, "keys");
  EXPECT_EQ(server->most_clients, 0u);
}

TEST(QemuNbdOptions, AnExportIsNamedLikeItsDisk) {
  const auto parsed = parse({"-export", "nbd,node-name=d"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  const auto disk = nbd_export(parsed->machine.objects.at(0));
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->id, "d");
  EXPECT_EQ(disk->node, "d");
  EXPECT_EQ(disk->name, "d");
  EXPECT_FALSE(disk->writable);
  EXPECT_FALSE(disk->allocation_depth);
  EXPECT_TRUE(disk->bitmaps.empty());
}

TEST(QemuNbdOptions, ExportsInJson) {
  const auto parsed = parse({"-export", R"({"type":"nbd","id":"i","node-name":"d","name":"n","writable":true,
      "bitmaps":["a","b"],"allocation-depth":true,"description":"t"})"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  const auto disk = nbd_export(parsed->machine.objects.at(0));
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->id, "i");
  EXPECT_EQ(disk->name, "n");
  EXPECT_EQ(disk->description, "t");
  EXPECT_TRUE(disk->writable);
  EXPECT_TRUE(disk->allocation_depth);
  EXPECT_EQ(disk->bitmaps, (std::vector<std::string>{"a", "b"}));
}

TEST(QemuNbdOptions, CredentialsAreObjectsOfTheMachine) {
  const auto parsed = parse({"-object", "tls-creds-x509,id=t,dir=/pki,endpoint=server,verify-peer=off",
                             "-object", "tls-creds-psk,id=u,dir=/keys", "-nbd-server", "x,tls-creds=t"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_EQ(parsed->machine.objects.at(0).type, "tls-creds-x509");
  EXPECT_EQ(parsed->machine.objects.at(1).type, "tls-creds-psk");
}

TEST(QemuNbdOptions, MistakesAreNamed) {
  const auto has = [](const std::string& text, std::string_view part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(error({"-nbd-server", "addr.type=vsock"}), "'vsock' is not one of unix, inet");
  has(error({"-nbd-server", "addr.type=unix"}), "addr.path: is missing");
  has(error({"-nbd-server", "addr.type=inet"}), "addr.host: is missing");
  has(error({"-nbd-server", "addr.path=x,addr.host=h"}), "addr.path: is of a unix socket");
  has(error({"-nbd-server", "addr.host=h,addr.port=65536"}), "there is no port 65536");
  has(error({"-nbd-server", "x,max-conections=1"}), "max-connections");
  has(error({"-nbd-server", "x", "-nbd-server", "y"}), "there is one NBD server");
  has(error({"-nbd-server", "x,tls-creds="}), "tls-creds: is empty");
  has(error({"-nbd-server", "x,tls-creds=t,tls-authz=a"}), "lists of clients' names are not available");
  has(error({"-export", "node-name=d"}), "type: is missing");
  has(error({"-export", "fuse,node-name=d"}), "'fuse' is not available");
  has(error({"-export", "nbd"}), "node-name: is missing");
  has(error({"-export", "nbd,node-name=d,writeable=on"}), "writable");
}

TEST(QemuNbdOptions, TheShortCommandLineHasThemToo) {
  const std::vector<std::string> words = {"run",          "d.raw,id=d",
                                          "--kernel",     "k",
                                          "--object",     "tls-creds-psk,id=t,dir=/keys",
                                          "--nbd-server", "x,tls-creds=t",
                                          "--export",     "nbd,node-name=d"};
  const auto parsed = parse_ostler_command_line(words);
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_EQ(parsed->machine.drives.at(0).id, "d");
  ASSERT_EQ(parsed->machine.objects.size(), 3u);
  EXPECT_EQ(parsed->machine.objects[0].type, "tls-creds-psk");
  EXPECT_EQ(parsed->machine.objects[1].type, kNbdServer);
  EXPECT_EQ(parsed->machine.objects[2].type, kNbdExport);
}

}  // namespace
}  // namespace ostler::config
