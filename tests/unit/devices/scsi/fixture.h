// A logical unit and an initiator that gives it command blocks.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "devices/scsi/logical_unit.h"
#include "rigs/memory_node.h"

namespace ostler::scsi::test {

struct Asked final : Command {
  void completed(std::shared_ptr<Command>) override { ++ends; }
  int ends = 0;
  std::string sent, room;
};

struct Controller final : Listener {
  void unit_changed(LogicalUnit&, const Sense& why) override { told.push_back(why); }
  void unit_resumed(LogicalUnit&) override { ++resumed; }
  std::vector<Sense> told;
  int resumed = 0;
};

using Cdb = std::vector<uint8_t>;

class UnitTest : public testing::Test {
 protected:
  ~UnitTest() override {
    if (unit) unit->connect(nullptr);
  }
  // Without the attention of the power-on.
  void plug(std::unique_ptr<LogicalUnit> made) {
    unit = std::move(made);
    unit->connect(&controller);
    EXPECT_EQ(sense({0x00}), sense::kReset);
  }
  std::shared_ptr<Asked> begin(const Cdb& cdb, const std::string& sent = {}, size_t room = 0) {
    auto asked = std::make_shared<Asked>();
    std::copy(cdb.begin(), cdb.end(), asked->cdb.begin());
    asked->sent = sent;
    asked->room.assign(room, '?');
    // In two pieces, as drivers have them.
    const auto pieces = [](std::string& bytes) {
      std::vector<iovec> all;
      const size_t first = bytes.size() / 3;
      if (first != 0) all.push_back({bytes.data(), first});
      if (!bytes.empty()) all.push_back({bytes.data() + first, bytes.size() - first});
      return all;
    };
    asked->out = pieces(asked->sent);
    asked->in = pieces(asked->room);
    asked->out_bytes = sent.size();
    asked->in_bytes = room;
    unit->execute(asked);
    return asked;
  }
  // Its sense data; kNone: it ended well.
  Sense sense(const Cdb& cdb, const std::string& sent = {}, size_t room = 0) {
    const auto asked = begin(cdb, sent, room);
    EXPECT_EQ(asked->ends, 1);
    EXPECT_FALSE(asked->overrun);
    EXPECT_EQ(asked->status == Status::kGood, asked->sense == sense::kNone);
    return asked->sense;
  }
  // The bytes that it answered.
  std::string answer(const Cdb& cdb, size_t room = 512) {
    const auto asked = begin(cdb, {}, room);
    EXPECT_EQ(asked->ends, 1);
    EXPECT_EQ(asked->status, Status::kGood) << int(asked->sense.key) << " " << int(asked->sense.code);
    return asked->room.substr(0, asked->transferred);
  }
  static uint64_t number(const std::string& bytes, size_t at, size_t size) {
    return big_endian(std::as_bytes(std::span(bytes)), at, size);
  }
  // A command block with numbers in it.
  static Cdb cdb(uint8_t opcode, size_t bytes, size_t first_at, size_t first_bytes, uint64_t first,
                 size_t count_at, size_t count_bytes, uint64_t count, uint8_t flags = 0) {
    Cdb made(bytes);
    made[0] = opcode;
    made[1] = flags;
    for (size_t i = 0; i < first_bytes; ++i)
      made[first_at + i] |= static_cast<uint8_t>(first >> 8 * (first_bytes - 1 - i));
    for (size_t i = 0; i < count_bytes; ++i)
      made[count_at + i] = static_cast<uint8_t>(count >> 8 * (count_bytes - 1 - i));
    return made;
  }
  static Cdb ten(uint8_t opcode, uint32_t first, uint16_t count, uint8_t flags = 0) {
    return cdb(opcode, 10, 2, 4, first, 7, 2, count, flags);
  }
  static Cdb twelve(uint8_t opcode, uint32_t first, uint32_t count, uint8_t flags = 0) {
    return cdb(opcode, 12, 2, 4, first, 6, 4, count, flags);
  }
  static Cdb sixteen(uint8_t opcode, uint64_t first, uint32_t count, uint8_t flags = 0) {
    return cdb(opcode, 16, 2, 8, first, 10, 4, count, flags);
  }

  Controller controller;
  std::shared_ptr<rigs::MemoryNode> node = std::make_shared<rigs::MemoryNode>();
  Options options;
  std::unique_ptr<LogicalUnit> unit;
};

}  // namespace ostler::scsi::test
