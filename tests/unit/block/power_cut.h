// Cuts the power at points of a workload on an image and looks at what is left.
#pragma once

#include <nlohmann/json.hpp>

#include "format_fixture.h"
#include "write_log_node.h"

namespace ostler::block::test {

class PowerCutTest : public FormatTest {
 protected:
  // Writes and discards at random on an image of `format` in `file`, with flushes between, then builds what
  // cuts would have left of it. Each must open and hold, in every sector, what it had at the last completed
  // flush or a later value. `judge`: a command line to which the file's name is added.
  void expect_power_cuts_lose_nothing(const std::string& file, const std::string& format, unsigned seed,
                                      const std::string& judge, bool zeroes = true) {
    const std::string before = content_of(file);
    NodePtr below = open_file(file);
    auto log = std::make_shared<WriteLogNode>();
    ASSERT_TRUE(log->connect(below, {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionsAll}));
    ASSERT_TRUE(opener.add(log, "log"));
    NodePtr node = open_options({{"driver", format}, {"file", "log"}});
    ASSERT_NE(node, nullptr);
    std::mt19937 random(seed);
    // Each sector's values since the last flush; and how many records there were at each flush.
    const uint64_t sectors = node->size() / 512;
    struct Step {
      size_t records;
      std::string model;  // one character a sector
      bool flushed;
    };
    std::string model(sectors, '\0');
    const std::string original = read(*node, 0, sectors * 512);
    for (uint64_t i = 0; i < sectors; ++i) model[i] = original[i * 512];
    std::vector<Step> steps = {{log->count(), model, true}};
    for (int i = 0; i < 24; ++i) {
      if (random() % 4 == 0) {
        ASSERT_EQ(flush(*node), 0);
        steps.push_back({log->count(), model, true});
        continue;
      }
      const uint64_t first = random() % sectors;
      const uint64_t count = 1 + random() % std::min<uint64_t>(sectors - first, 300);
      if (random() % 8 == 0) {
        ASSERT_EQ(discard(*node, first * 512, count * 512), 0);
        const std::string now = read(*node, first * 512, count * 512);
        for (uint64_t sector = 0; sector < count; ++sector) model[first + sector] = now[sector * 512];
        steps.push_back({log->count(), model, false});
        continue;
      }
      const char value = zeroes && random() % 5 == 0 ? '\0' : static_cast<char>('a' + i);
      ASSERT_EQ(write_value(*node, first, count, value), 0);
      model.replace(first, count, std::string(count, value));
      steps.push_back({log->count(), model, false});
    }
    const std::vector<WriteRecord> records = log->records();
    auto ignored = context.run_until(close_chain(std::move(node)));
    log = nullptr;
    below = nullptr;
    std::vector<std::byte> begin(before.size());
    memcpy(begin.data(), before.data(), before.size());
    for (int i = 0; i < 24; ++i) {
      size_t cut = steps[0].records + random() % (records.size() - steps[0].records + 1);
      // What was written together is there in part when the power goes during the next flush.
      while (i % 2 == 0 && cut > steps[0].records && records[cut - 1].kind != WriteRecord::Kind::kFlushBegin)
        --cut;
      SCOPED_TRACE("cut after record " + std::to_string(cut));
      const std::vector<std::byte> left = image_after_power_cut(begin, records, cut, &random);
      const std::string image = path("cut");
      std::ofstream(image, std::ios::binary)
          .write(reinterpret_cast<const char*>(left.data()), static_cast<std::streamsize>(left.size()));
      look_at_cut(image);
      size_t promised = 0;
      for (size_t step = 0; step < steps.size(); ++step)
        if (steps[step].flushed && steps[step].records <= cut) promised = step;
      NodePtr found = open(image, format, fast());
      ASSERT_NE(found, nullptr);
      const std::string content = read(*found, 0, sectors * 512);
      for (uint64_t sector = 0; sector < sectors; ++sector) {
        const std::string bytes = content.substr(sector * 512, 512);
        ASSERT_EQ(bytes, std::string(512, bytes[0])) << "sector " << sector << " is torn";
        bool known = false;
        for (size_t step = promised; step < steps.size() && !known; ++step)
          known = steps[step].model[sector] == bytes[0];
        ASSERT_TRUE(known) << "sector " << sector << " holds " << static_cast<int>(bytes[0]);
      }
      close(found);
      if (!judge.empty() && i % 6 == 0) expect_success(judge + " " + image);
    }
  }
  // What else must be true of an image after a cut.
  virtual void look_at_cut(const std::string&) {}

 private:
  int write_value(Node& node, uint64_t sector, uint64_t count, char value) {
    if (value == '\0') return zero(node, sector * 512, count * 512, true);
    return write(node, sector * 512, std::string(count * 512, value));
  }
};

}  // namespace ostler::block::test
