// The networks that a command line makes, without a machine: ids, hubs, filters.
#include "machine/networks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "config/qemu_command_line.h"
#include "unit/net/fake_network.h"

namespace ostler::machine {
namespace {

using net::test::Card;
using net::test::frame;
using net::test::numbered_frame;

class NetworksTest : public testing::Test {
 protected:
  ~NetworksTest() override {
    networks.reset();
    std::filesystem::remove(capture);
  }
  // The message of the error, "" when all is open.
  std::string try_open(const std::vector<std::string>& words) {
    auto command = config::parse_qemu_command_line(words);
    if (!command) return command.error().message();
    machine = std::move(command->machine);
    auto made = Networks::create(
        machine, loop, [](const std::string& id, const std::string& user) -> Result<chardev::CharBackend*> {
          return Error(ErrorKind::kNotFound, user + ": there is no '" + id + "'");
        });
    if (!made) return made.error().message();
    networks = *std::move(made);
    return {};
  }
  // The network of card `number`, as the command line connects them.
  net::Backend* of_card(size_t number) {
    unsigned index = 0;
    for (const config::Device& device : machine.devices) {
      if (device.type != "virtio-net-pci" || index++ != number) continue;
      for (const auto& [key, value] : device.properties)
        if (key == "netdev")
          if (const auto taken = networks->take(value, device.origin)) return *taken;
    }
    return nullptr;
  }
  const std::string capture = testing::TempDir() + "ostler-networks-" + std::to_string(getpid());
  event::VirtualClock clock;
  event::Loop loop{clock};
  config::Machine machine;
  std::unique_ptr<Networks> networks;
};

TEST_F(NetworksTest, cards_on_one_hub_hear_each_other) {
  ASSERT_EQ(try_open({"-netdev", "hubport,id=a,hubid=7", "-netdev", "hubport,id=b,hubid=7", "-netdev",
                      "hubport,id=c,hubid=8"}),
            "");
  Card cards[3];
  net::Backend* ports[3];
  for (int i = 0; i < 3; ++i) {
    const auto taken = networks->take(std::string(1, static_cast<char>('a' + i)), "a test");
    ASSERT_TRUE(taken);
    ports[i] = *taken;
    ports[i]->attach(&cards[i]);
  }
  ports[0]->send(frame(numbered_frame(1)), 0);
  loop.run_due();
  EXPECT_EQ(cards[1].frames.size(), 1u);
  EXPECT_TRUE(cards[2].frames.empty());
  for (net::Backend* port : ports) port->attach(nullptr);
}

TEST_F(NetworksTest, one_nic_and_one_net_are_connected_without_a_hub) {
  ASSERT_EQ(try_open({"-net", "nic", "-net", "user,id=mine"}), "");
  ASSERT_EQ(machine.netdevs.size(), 1u);
  EXPECT_EQ(machine.netdevs[0].id, "mine");
  EXPECT_NE(of_card(0), nullptr);
}

TEST_F(NetworksTest, two_nics_share_a_hub_with_the_network) {
  ASSERT_EQ(try_open({"-net", "nic,macaddr=52:54:00:00:00:01", "-net", "nic,model=virtio", "-net", "user"}),
            "");
  Card cards[2];
  net::Backend* ports[2] = {of_card(0), of_card(1)};
  ASSERT_NE(ports[0], nullptr);
  ASSERT_NE(ports[1], nullptr);
  for (int i = 0; i < 2; ++i) ports[i]->attach(&cards[i]);
  ports[0]->send(frame(numbered_frame(1)), 0);
  loop.run_due();
  EXPECT_EQ(cards[1].frames.size(), 1u);
  for (net::Backend* port : ports) port->attach(nullptr);
  ASSERT_EQ(machine.devices[0].properties.at(0).key, "mac");
}

TEST_F(NetworksTest, a_nic_may_be_a_port_of_a_hub) {
  ASSERT_EQ(try_open({"-nic", "hubport,hubid=3", "-nic", "hubport,hubid=3"}), "");
  Card cards[2];
  net::Backend* ports[2] = {of_card(0), of_card(1)};
  for (int i = 0; i < 2; ++i) {
    ASSERT_NE(ports[i], nullptr);
    ports[i]->attach(&cards[i]);
  }
  ports[0]->send(frame(numbered_frame(1)), 0);
  loop.run_due();
  EXPECT_EQ(cards[1].frames.size(), 1u);
  for (net::Backend* port : ports) port->attach(nullptr);
  EXPECT_NE(try_open({"-nic", "hubport,hubid=3,netdev=n"}).find("say -netdev hubport"), std::string::npos);
}

TEST_F(NetworksTest, net_may_be_of_another_process) {
  ASSERT_EQ(try_open({"-net", "nic", "-net", "vhost-user,chardev=c,id=v"}), "");
  EXPECT_TRUE(networks->vhost_user("v"));
  EXPECT_EQ(machine.devices.at(0).properties.back().value, "v");
  EXPECT_NE(
      try_open({"-net", "nic", "-net", "nic", "-net", "vhost-user,chardev=c"}).find("no filter and no hub"),
      std::string::npos);
}

TEST_F(NetworksTest, net_nic_takes_a_network_by_its_id) {
  ASSERT_EQ(try_open({"-netdev", "user,id=n", "-net", "nic,netdev=n"}), "");
  EXPECT_EQ(machine.netdevs.size(), 1u);
  EXPECT_NE(of_card(0), nullptr);
}

TEST_F(NetworksTest, net_none_makes_nothing) {
  ASSERT_EQ(try_open({"-net", "none"}), "");
  EXPECT_TRUE(machine.netdevs.empty());
  EXPECT_TRUE(machine.devices.empty());
}

TEST_F(NetworksTest, a_network_serves_one_device) {
  ASSERT_EQ(try_open({"-netdev", "user,id=n"}), "");
  EXPECT_TRUE(networks->take("n", "-device first"));
  const auto again = networks->take("n", "-device second");
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().message(), "-device second: the network 'n' is already used by -device first");
}

TEST_F(NetworksTest, a_network_that_no_card_uses_is_told) {
  ASSERT_EQ(try_open({"-netdev", "user,id=n", "-netdev", "hubport,id=p,hubid=1", "-netdev",
                      "vhost-user,id=v,chardev=c", "-nic", "user,id=mine"}),
            "");
  ASSERT_NE(of_card(0), nullptr);
  const auto warnings = networks->unused();
  ASSERT_EQ(warnings.size(), 3u);
  EXPECT_EQ(warnings[0], "-netdev user,id=n: no card uses this network; add -device virtio-net-pci,netdev=n");
  EXPECT_TRUE(networks->take("n", "-device first"));
  EXPECT_TRUE(networks->take("p", "-device second"));
  EXPECT_TRUE(networks->claim("v", "-device third"));
  EXPECT_TRUE(networks->unused().empty());
  EXPECT_FALSE(networks->claim("v", "-device fourth"));
}

TEST_F(NetworksTest, a_network_that_is_alone_on_its_hub_is_told) {
  ASSERT_EQ(try_open({"-net", "user"}), "");
  ASSERT_EQ(networks->unused().size(), 1u);
  EXPECT_TRUE(networks->unused()[0].starts_with("-net user: "));
  ASSERT_EQ(try_open({"-net", "user", "-net", "socket,udp=127.0.0.1:1,localaddr=127.0.0.1:0"}), "");
  EXPECT_TRUE(networks->unused().empty()) << "a switch between networks needs no card";
}

TEST_F(NetworksTest, mistakes_are_told_with_the_option) {
  EXPECT_NE(try_open({"-netdev", "user,id=n", "-netdev", "user,id=n"}).find("'n' is taken"),
            std::string::npos);
  EXPECT_NE(try_open({"-netdev", "hubport,id=n"}).find("hubid: is missing"), std::string::npos);
  EXPECT_NE(try_open({"-netdev", "hubport,id=n,hubid=1,netdev=x"}).find("there is no network 'x'"),
            std::string::npos);
  EXPECT_NE(try_open({"-netdev", "user,id=net0", "-object", "filter-dump,id=f,netdev=net1,file=/tmp/x"})
                .find("did you mean 'net0'?"),
            std::string::npos);
  EXPECT_NE(
      try_open({"-netdev", "user,id=n", "-object", "filter-dump,id=f,netdev=n"}).find("file is missing"),
      std::string::npos);
  EXPECT_NE(
      try_open({"-netdev", "user,id=n", "-object", "filter-rate,id=f,netdev=n"}).find("rate is missing"),
      std::string::npos);
  EXPECT_NE(try_open({"-object", "filter-dump,id=f", "-object", "secret,id=f,data=x"}).find("'f' is taken"),
            std::string::npos);
}

TEST_F(NetworksTest, filters_stack_from_the_network_to_the_card) {
  ASSERT_EQ(try_open({"-netdev", "hubport,id=n,hubid=0", "-netdev", "hubport,id=m,hubid=0", "-object",
                      "filter-dump,id=f,netdev=n,file=" + capture, "-object",
                      "filter-rate,id=g,netdev=n,rate=600,burst=60"}),
            "");
  Card card, other;
  net::Backend* const port = *networks->take("n", "a test");
  net::Backend* const far = *networks->take("m", "a test");
  port->attach(&card);
  far->attach(&other);
  EXPECT_TRUE(port->send(frame(numbered_frame(1)), 0));
  EXPECT_FALSE(port->send(frame(numbered_frame(2)), 0));  // the limit, in front of the capture
  loop.run_due();
  EXPECT_EQ(other.frames.size(), 1u);
  EXPECT_EQ(std::filesystem::file_size(capture), 24u + 16u + 60u);
  port->attach(nullptr);
  far->attach(nullptr);
}

TEST_F(NetworksTest, a_filter_that_is_off_is_not_there) {
  ASSERT_EQ(
      try_open({"-netdev", "user,id=n", "-object", "filter-dump,id=f,netdev=n,status=off,file=" + capture}),
      "");
  EXPECT_FALSE(std::filesystem::exists(capture));
}

}  // namespace
}  // namespace ostler::machine
