#include "config/ostler_command_line.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace ostler::config {
namespace {

Result<CommandLine> parse(std::initializer_list<const char*> words) {
  const std::vector<std::string> arguments(words.begin(), words.end());
  return parse_ostler_command_line(arguments);
}

TEST(OstlerCommandLine, RunWithDiskHasNetworkAndRandomNumbers) {
  const auto parsed = parse({"run", "disk.raw,snapshot", "--kernel", "k", "--memory", "512M", "--cpus", "2"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message();
  const Machine& m = parsed->machine;
  EXPECT_EQ(m.memory_bytes, 512u << 20);
  EXPECT_EQ(m.cpus, 2u);
  ASSERT_EQ(m.drives.size(), 1u);
  EXPECT_TRUE(m.drives[0].snapshot);
  std::vector<std::string> types;
  for (const Device& device : m.devices) types.push_back(device.type);
  EXPECT_EQ(types, (std::vector<std::string>{"virtio-rng-pci", "virtio-blk-pci", "virtio-net-pci"}));
}

TEST(OstlerCommandLine, ForwardBecomesARuleOnTheLoopbackAddress) {
  const auto parsed = parse({"run", "--kernel", "k", "-p", "2222:22"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message();
  EXPECT_EQ(parsed->machine.netdevs.at(0).properties.at(0).value, "tcp:127.0.0.1:2222-:22");
}

TEST(OstlerCommandLine, SharesAreNamedByTheirFolders) {
  const auto parsed =
      parse({"run", "--kernel", "k", "--share", "/some/where/", "--share", "dir:tag", "--share-as", "9p"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message();
  const auto& shares = parsed->machine.shares;
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].tag, "where");
  EXPECT_EQ(shares[1].path, "dir");
  EXPECT_EQ(shares[1].tag, "tag");
  EXPECT_EQ(shares[1].as, Share::As::k9p);
}

TEST(OstlerCommandLine, BadForwardShowsTheForm) {
  const auto parsed = parse({"run", "-p", "22"});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().message(), "--forward 22: write it as HOSTPORT:GUESTPORT, for example 2222:22");
}

TEST(OstlerCommandLine, NetworksForPeople) {
  const auto network = [](const char* net) {
    const auto parsed = parse({"run", "--kernel", "k", "--net", net});
    EXPECT_TRUE(parsed.has_value()) << parsed.error().message();
    const auto& netdev = parsed->machine.netdevs.at(0);
    std::string text = netdev.type;
    for (const auto& [key, value] : netdev.properties) text += " " + key + "=" + value;
    return text;
  };
  EXPECT_EQ(network("tap=tap0"), "tap ifname=tap0 script=no downscript=no");
  EXPECT_EQ(network("bridge=br0"), "bridge br=br0 managed=on");
  EXPECT_EQ(network("bridge=br0,nat,address=10.0.0.1/24"),
            "bridge br=br0 managed=on nat=on address=10.0.0.1/24");
  EXPECT_EQ(network("peer=/tmp/a=b"), "peer path=/tmp/a=b");
  const auto none = parse({"run", "--kernel", "k", "--net", "none"});
  EXPECT_TRUE(none && none->machine.netdevs.empty());
}

TEST(OstlerCommandLine, SocketsForPeople) {
  const auto device = [](std::initializer_list<const char*> words) {
    const auto parsed = parse(words);
    EXPECT_TRUE(parsed.has_value()) << parsed.error().message();
    std::string text;
    for (const Device& each : parsed->machine.devices) {
      if (!each.type.starts_with("virtio-vsock")) continue;
      text += each.type;
      for (const KeyValue& property : each.properties) text += " " + property.key + "=" + property.value;
    }
    return text;
  };
  EXPECT_EQ(device({"run", "--kernel", "k", "--vsock", "/tmp/s"}),
            "virtio-vsock-pci uds-path=/tmp/s guest-cid=3");
  EXPECT_EQ(
      device({"run", "--kernel", "k", "--vsock", "/tmp/s,cid=9", "--machine", "microvm", "--net", "none"}),
      "virtio-vsock-device uds-path=/tmp/s guest-cid=9");
  for (const char* wrong : {"", "cid=9", "/tmp/s,port=1"})
    EXPECT_FALSE(parse({"run", "--vsock", wrong})) << wrong;
}

TEST(OstlerCommandLine, UnknownNetworksAreRefusedWithTheKnownOnes) {
  for (const char* net : {"taps", "tap", "tap=", "nothing=x", "user=x"}) {
    const auto parsed = parse({"run", "--net", net});
    ASSERT_FALSE(parsed.has_value()) << net;
    EXPECT_NE(parsed.error().message().find("tap=NAME, bridge=NAME[,nat]"), std::string::npos);
  }
  const auto parsed = parse({"run", "--net", "tap=tap0", "-p", "1:2"});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().message(), "--forward: only goes with --net user");
}

TEST(OstlerCommandLine, UnknownOptionNamesTheNearest) {
  const auto parsed = parse({"run", "--memroy=1G"});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_NE(parsed.error().message().find("did you mean '--memory'?"), std::string::npos)
      << parsed.error().message();
}

TEST(OstlerCommandLine, UnknownCommandNamesTheNearest) {
  const auto parsed = parse({"rum"});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_NE(parsed.error().message().find("did you mean 'run'?"), std::string::npos)
      << parsed.error().message();
}

TEST(OstlerCommandLine, BadMemorySizeIsOneSentence) {
  const auto parsed = parse({"run", "--memory", "lots"});
  ASSERT_FALSE(parsed.has_value());
  const std::string told = in_ostler_options(parsed.error().message());
  EXPECT_EQ(told.rfind("--memory lots: ", 0), 0u) << told;
  EXPECT_NE(told.find("'lots' is not a size"), std::string::npos) << told;
}

TEST(OstlerCommandLine, CommandsInASentenceKeepTheirOptions) {
  EXPECT_EQ(in_ostler_options("-m 1G: 'sudo setfacl -m u:$USER:rw /dev/kvm', or give less (-m 512M); -m 1M"),
            "--memory 1G: 'sudo setfacl -m u:$USER:rw /dev/kvm', or give less (-m 512M); --memory 1M");
  EXPECT_EQ(in_ostler_options("sudo setfacl -m u:$USER:rw /dev/net/tun"),
            "sudo setfacl -m u:$USER:rw /dev/net/tun");
}

TEST(OstlerCommandLine, NoArgumentsShowHelp) {
  const auto parsed = parse({});
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->action, CommandLine::Action::kHelp);
  EXPECT_NE(parsed->subject.find("run"), std::string::npos);
}

TEST(OstlerCommandLine, SerialPortIsOnTheTerminal) {
  const auto parsed = parse({"run", "--kernel", "k"});
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->machine.chardevs.at(0).backend, "stdio");
}

}  // namespace
}  // namespace ostler::config
