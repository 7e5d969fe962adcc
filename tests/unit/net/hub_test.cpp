// A hub with cards and networks at its ports.
#include "net/hub.h"

#include <gtest/gtest.h>

#include "fake_network.h"

namespace ostler::net {
namespace {

using test::Card;
using test::FakeBackend;
using test::frame;
using test::numbered_frame;

class HubTest : public testing::Test {
 protected:
  HubTest() {
    for (int i = 0; i < 3; ++i) {
      ports.push_back(&hub.add_port());
      ports.back()->attach(&cards[i]);
    }
  }
  ~HubTest() override {
    for (Backend* port : ports) port->attach(nullptr);
  }
  event::VirtualClock clock;
  event::Loop loop{clock};
  Card cards[3];
  FakeBackend network;
  Hub hub{loop};
  std::vector<Backend*> ports;
};

TEST_F(HubTest, a_frame_goes_to_all_other_ports) {
  hub.join(network);
  EXPECT_TRUE(ports[0]->send(frame(numbered_frame(1)), 0));
  loop.run_due();
  EXPECT_TRUE(cards[0].frames.empty());
  EXPECT_EQ(cards[1].frames, std::vector<std::string>{numbered_frame(1)});
  EXPECT_EQ(cards[2].frames, std::vector<std::string>{numbered_frame(1)});
  EXPECT_EQ(network.frames, std::vector<std::string>{numbered_frame(1)});
}

TEST_F(HubTest, what_a_network_brings_goes_to_all_cards) {
  hub.join(network);
  EXPECT_TRUE(network.receiver->receive(frame(numbered_frame(1)), 0));
  loop.run_due();
  for (const Card& card : cards) EXPECT_EQ(card.frames.size(), 1u);
  EXPECT_TRUE(network.frames.empty());
}

TEST_F(HubTest, no_card_is_called_from_another) {
  ports[0]->send(frame(numbered_frame(1)), 0);
  EXPECT_TRUE(cards[1].frames.empty());
}

TEST_F(HubTest, one_card_without_room_does_not_stop_the_others) {
  cards[1].open = false;
  for (unsigned i = 0; i < 2000; ++i) {
    ASSERT_TRUE(ports[0]->send(frame(numbered_frame(i)), 0));
    loop.run_due();
  }
  EXPECT_EQ(cards[2].frames.size(), 2000u);
  cards[1].open = true;
  ports[1]->receiver_ready(0);
  loop.run_due();
  EXPECT_GT(cards[1].frames.size(), 0u);
  EXPECT_LT(cards[1].frames.size(), 1000u);  // the rest was lost
  EXPECT_EQ(cards[1].frames[0], numbered_frame(0));
}

TEST_F(HubTest, the_sender_waits_when_all_others_are_full) {
  for (int i : {1, 2}) cards[i].open = false;
  size_t sent = 0;
  while (sent < 100000 && ports[0]->send(frame(numbered_frame(0)), 0)) ++sent;
  EXPECT_LT(sent, 10000u);
  loop.run_due();
  EXPECT_EQ(cards[0].sendables, 0);
  cards[2].open = true;
  ports[2]->receiver_ready(0);
  loop.run_due();
  EXPECT_EQ(cards[0].sendables, 1);
  EXPECT_EQ(cards[2].frames.size(), sent);
  EXPECT_TRUE(ports[0]->send(frame(numbered_frame(1)), 0));
}

TEST_F(HubTest, a_full_network_is_retried_when_it_has_room) {
  hub.join(network);
  network.room = 0;
  ports[0]->send(frame(numbered_frame(1)), 0);
  loop.run_due();
  EXPECT_TRUE(network.frames.empty());
  network.room = 5;
  network.receiver->sendable(0);
  loop.run_due();
  EXPECT_EQ(network.frames.size(), 1u);
}

TEST_F(HubTest, a_network_that_was_refused_is_asked_again) {
  hub.join(network);
  for (Card& card : cards) card.open = false;
  while (network.receiver->receive(frame(numbered_frame(1)), 0)) {
  }
  cards[0].open = true;
  ports[0]->receiver_ready(0);
  loop.run_due();
  EXPECT_EQ(network.ready, 1);
}

TEST_F(HubTest, frames_with_offloads_and_giants_are_lost) {
  EXPECT_EQ(ports[0]->send_offloads(), 0u);
  const std::string bytes = numbered_frame(1);
  EXPECT_TRUE(ports[0]->send({std::as_bytes(std::span(bytes)), {.flags = 1}}, 0));
  EXPECT_TRUE(ports[0]->send(frame(std::string(kMaxFrame + 1, 'x')), 0));
  loop.run_due();
  EXPECT_TRUE(cards[1].frames.empty());
}

TEST_F(HubTest, a_port_without_card_loses_its_frames) {
  ports[1]->attach(nullptr);
  for (unsigned i = 0; i < 2000; ++i) {
    ASSERT_TRUE(ports[0]->send(frame(numbered_frame(i)), 0));
    loop.run_due();
  }
  EXPECT_TRUE(cards[1].frames.empty());
}

}  // namespace
}  // namespace ostler::net
