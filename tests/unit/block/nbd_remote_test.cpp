// Names and options of NBD servers, and what web servers say about ranges.
#include <gtest/gtest.h>

#include "block/http/http_node.h"
#include "block/nbd/remote.h"

namespace ostler::block::test {
namespace {

nbd::Remote remote(const std::string& name) {
  auto parsed = nbd::parse_remote(name);
  EXPECT_TRUE(parsed) << name << (parsed ? "" : parsed.error().message());
  return parsed ? *parsed : nbd::Remote();
}

TEST(NbdRemote, UrisOfHosts) {
  EXPECT_EQ(remote("nbd://host").uri(), "nbd://host:10809/");
  EXPECT_EQ(remote("nbd://host:1/a%20b").export_name, "a b");
  EXPECT_EQ(remote("nbds://[::1]:5/x").uri(), "nbds://[::1]:5/x");
  EXPECT_EQ(remote("nbd://").host, "localhost");
  EXPECT_TRUE(remote("nbds://host/?tls-creds=/keys").tls);
  EXPECT_EQ(remote("nbds://host/?tls-creds=/keys").tls_credentials, "/keys");
  EXPECT_EQ(remote("nbds://host/?tls-hostname=disks.example").tls_hostname, "disks.example");
}

TEST(NbdRemote, UrisOfSockets) {
  EXPECT_EQ(remote("nbd+unix:///disk?socket=/run/a%3Fb").path, "/run/a?b");
  EXPECT_EQ(remote("nbd+unix:///disk?socket=/run/a%3Fb").uri(), "nbd+unix:///disk?socket=/run/a%3Fb");
}

TEST(NbdRemote, OlderNames) {
  EXPECT_EQ(remote("nbd:host:7:exportname=a:b").export_name, "a:b");
  EXPECT_EQ(remote("nbd:host:7").uri(), "nbd://host:7/");
  EXPECT_EQ(remote("nbd:unix:/run/s:exportname=x").uri(), "nbd+unix:///x?socket=/run/s");
}

TEST(NbdRemote, WrongNamesAreRefused) {
  for (const char* name : {"nbd", "nbd:", "nbd:unix:", "nbd://host/%zz", "nbd://host/%", "nbd://host/%00",
                           "nbd://[::1", "nbd+unix:///x", "nbd+unix://host/?socket=s", "nbd://host/?socket=s",
                           "nbd://h/?x=1", "nbd://h:99999/", "nbd://h/?socket", "nbds:host"})
    EXPECT_FALSE(nbd::parse_remote(name)) << name;
}

TEST(NbdRemote, OptionsNameOnePlace) {
  const auto take = [](const char* text) {
    OptionReader options(nlohmann::json::parse(text), "node");
    return nbd::take_remote(options);
  };
  EXPECT_EQ(take(R"({"server":{"type":"unix","path":"/s"},"export":"e"})")->uri(), "nbd+unix:///e?socket=/s");
  EXPECT_EQ(take(R"({"server":{"type":"inet","host":"h","port":"5"}})")->uri(), "nbd://h:5/");
  EXPECT_EQ(take(R"({"host":"h","port":6})")->uri(), "nbd://h:6/");
  const auto secure = take(R"({"path":"/s","tls-creds":"id","tls-hostname":"h"})");
  ASSERT_TRUE(secure);
  EXPECT_TRUE(secure->tls);
  EXPECT_EQ(secure->tls_credentials, "id");
  EXPECT_EQ(secure->tls_hostname, "h");
  for (const char* wrong :
       {R"({})", R"({"server":{"type":"unix","host":"h"}})", R"({"path":"/s","host":"h"})",
        R"({"server":{"path":"/s","x":1}})", R"({"path":"/s","tls-hostname":"h"})",
        R"({"filename":"nbd://h","server":{"path":"/s"}})", R"({"host":"h","port":65536})"})
    EXPECT_FALSE(take(wrong)) << wrong;
}

TEST(HttpRange, IsReadOrRefused) {
  uint64_t first = 9, last = 9, size = 9;
  EXPECT_TRUE(http::parse_content_range(" bytes 5-6/1000\r\n", first, last, size));
  EXPECT_EQ(first, 5u);
  EXPECT_EQ(last, 6u);
  EXPECT_EQ(size, 1000u);
  EXPECT_TRUE(http::parse_content_range("bytes */0", first, last, size));
  EXPECT_EQ(size, 0u);
  for (const char* wrong :
       {"", "bytes", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-1/*", "bytes 0-1/9999999999999999999",
        "bytes 0-1/99999999999999999999999", "bytes 0-1/10 x", "lines 0-1/10", "bytes -1/10"})
    EXPECT_FALSE(http::parse_content_range(wrong, first, last, size)) << wrong;
}

}  // namespace
}  // namespace ostler::block::test
