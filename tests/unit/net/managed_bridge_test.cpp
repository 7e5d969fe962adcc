// Bridges that are made, shared, removed, and found after their makers were killed, in a network namespace of
// the test's own.
#include "net/managed_bridge.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "net/interface.h"
#include "net/ipv4_network.h"
#include "net/run_program.h"

namespace ostler::net {
namespace {

std::string line_of(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

class ManagedBridgeTest : public testing::Test {
 protected:
  ManagedBridgeTest() : folder_(testing::TempDir() + "ostler-bridge-" + std::to_string(getpid())) {}
  void SetUp() override {
    const int flags = geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET;
    ASSERT_EQ(unshare(flags), 0) << "run as root, or allow user namespaces: " << std::strerror(errno);
    ASSERT_TRUE(set_up("lo", true));
  }
  ~ManagedBridgeTest() override { std::filesystem::remove_all(folder_); }

  auto use(bool nat = false, const std::string& address = "", const std::string& name = "br7") const {
    return ManagedBridge::use({.name = name, .address = address, .nat = nat, .folder = folder_});
  }
  // A process that uses the bridge and is killed.
  void use_and_die(bool nat = false) const {
    const pid_t child = fork();
    if (child == 0) {
      auto bridge = use(nat);
      if (bridge) ::raise(SIGKILL);
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  static bool there() { return interface_index("br7") != 0; }
  // The number of the DHCP server; "" when none runs.
  std::string server() const {
    for (const auto& each : std::filesystem::directory_iterator(folder_))
      if (each.path().extension() == ".pid") return line_of(each.path());
    return "";
  }
  static bool runs(const std::string& pid) { return !line_of("/proc/" + pid + "/cmdline").empty(); }
  const std::string folder_;
};

TEST_F(ManagedBridgeTest, is_made_and_removed) {
  auto bridge = use(false, "10.5.6.1/24");
  ASSERT_TRUE(bridge) << bridge.error().message();
  ASSERT_NE(*bridge, nullptr);
  EXPECT_TRUE(is_bridge("br7"));
  const std::string pid = server();
  ASSERT_NE(pid, "");
  EXPECT_TRUE(runs(pid));
  EXPECT_TRUE(free_network(0)) << "getifaddrs";
  bridge->reset();
  EXPECT_FALSE(there());
  EXPECT_FALSE(runs(pid));
}

TEST_F(ManagedBridgeTest, stays_while_another_uses_it) {
  auto first = use();
  auto second = use();
  ASSERT_TRUE(first && second);
  ASSERT_NE(*second, nullptr);
  first->reset();
  EXPECT_TRUE(there());
  second->reset();
  EXPECT_FALSE(there());
}

TEST_F(ManagedBridgeTest, of_a_killed_process_is_made_anew) {
  use_and_die();
  ASSERT_TRUE(there());
  const std::string before = hardware_address("br7"), pid = server();
  ASSERT_TRUE(runs(pid));
  auto bridge = use();
  ASSERT_TRUE(bridge) << bridge.error().message();
  ASSERT_NE(*bridge, nullptr);
  EXPECT_TRUE(there());
  EXPECT_NE(hardware_address("br7"), before);
  EXPECT_FALSE(runs(pid));
  bridge->reset();
  EXPECT_FALSE(there());
}

TEST_F(ManagedBridgeTest, of_a_killed_process_is_kept_for_another_user) {
  auto bridge = use();
  ASSERT_TRUE(bridge);
  use_and_die();
  EXPECT_TRUE(there());
  bridge->reset();
  EXPECT_FALSE(there());
}

TEST_F(ManagedBridgeTest, of_somebody_else_is_left_alone) {
  ASSERT_TRUE(make_bridge("br7"));
  auto bridge = use();
  ASSERT_TRUE(bridge) << bridge.error().message();
  EXPECT_EQ(*bridge, nullptr);
  EXPECT_TRUE(there());
  const auto with_nat = use(true);
  ASSERT_FALSE(with_nat);
  EXPECT_NE(with_nat.error().message().find("br7 is already there"), std::string::npos);
}

// The user removed ours by hand and made one of the same name.
TEST_F(ManagedBridgeTest, notes_of_one_that_is_gone_remove_no_other) {
  use_and_die();
  ASSERT_TRUE(remove_bridge("br7"));
  ASSERT_TRUE(make_bridge("br7"));
  auto bridge = use();
  ASSERT_TRUE(bridge) << bridge.error().message();
  EXPECT_EQ(*bridge, nullptr);
  EXPECT_TRUE(there());
}

TEST_F(ManagedBridgeTest, a_way_to_the_world_is_made_and_removed) {
  constexpr const char* kForwarding = "/proc/sys/net/ipv4/ip_forward";
  std::ofstream(kForwarding) << "0" << std::flush;
  use_and_die(true);
  EXPECT_EQ(line_of(kForwarding), "1");
  EXPECT_TRUE(run_program({"sh", "-c", "nft list ruleset | grep -q masquerade"}));
  use()->reset();  // finds the notes, and leaves nothing
  EXPECT_EQ(line_of(kForwarding), "0");
  EXPECT_FALSE(run_program({"sh", "-c", "nft list ruleset | grep -q masquerade"}));
  EXPECT_FALSE(there());
}

TEST_F(ManagedBridgeTest, of_a_killed_process_is_removed_by_the_next_of_another_name) {
  use_and_die();
  const std::string pid = server();
  ASSERT_TRUE(there());
  const auto other = use(false, "", "br8");
  ASSERT_TRUE(other) << other.error().message();
  EXPECT_FALSE(there());
  EXPECT_FALSE(runs(pid));
  EXPECT_NE(interface_index("br8"), 0u);
}

TEST_F(ManagedBridgeTest, of_another_name_stays_while_it_is_used) {
  const auto first = use();
  ASSERT_TRUE(first);
  const std::string pid = server();
  ASSERT_TRUE(use(false, "", "br8"));
  EXPECT_TRUE(there());
  EXPECT_TRUE(runs(pid));
}

TEST_F(ManagedBridgeTest, forwarding_stays_on_for_the_last_with_a_way_to_the_world) {
  constexpr const char* kForwarding = "/proc/sys/net/ipv4/ip_forward";
  std::ofstream(kForwarding) << "0" << std::flush;
  auto first = use(true), second = use(true, "", "br8");
  ASSERT_TRUE(first && second);
  first->reset();
  EXPECT_EQ(line_of(kForwarding), "1");
  second->reset();
  EXPECT_EQ(line_of(kForwarding), "0");
  // What the host had on already stays on.
  std::ofstream(kForwarding) << "1" << std::flush;
  use(true)->reset();
  EXPECT_EQ(line_of(kForwarding), "1");
}

TEST_F(ManagedBridgeTest, mistakes_are_told) {
  const auto bad = use(false, "10.5.6.1/31");
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message().find("10.5.6.1/31"), std::string::npos);
  EXPECT_FALSE(there());
  EXPECT_FALSE(ManagedBridge::use({.name = "a/b", .address = {}, .nat = false, .folder = folder_}));
}

TEST(Ipv4NetworkTest, free_ones_do_not_overlap) {
  const auto taken = Ipv4Network::parse("10.64.5.7/16");
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->text(), "10.64.0.0/16");
  EXPECT_TRUE(taken->overlaps(*Ipv4Network::parse("10.64.9.1/24")));
  EXPECT_FALSE(taken->overlaps(*Ipv4Network::parse("10.65.9.1/24")));
  const auto small = Ipv4Network::parse("10.1.2.1/30");
  EXPECT_EQ(small->first(), "10.1.2.2");
  EXPECT_EQ(small->last(), "10.1.2.2");
}

}  // namespace
}  // namespace ostler::net
