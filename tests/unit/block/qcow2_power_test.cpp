// Power cuts: the log of writes of a workload is cut at every point, and what was not flushed is there or not
// by chance. After each cut the image opens, has no error but leaks, and holds what completed flushes
// promised.
#include "base/bytes.h"
#include "qcow2_fixture.h"
#include "write_log.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;
using test::WriteLogNode;
using test::WriteRecord;

constexpr size_t kSector = 512;

// A request's effect on one sector: from which point of the log on it may be seen.
struct Change {
  size_t began, ended;  // records in the log
  uint64_t stamp;       // what the sector begins with
};

struct Scenario {
  const char* name;
  const char* options;  // JSON
  bool backing;
  bool snapshots;
  const char* filter = "";  // on top of the image, or between it and its file
};
void PrintTo(const Scenario& scenario, std::ostream* to) {
  *to << scenario.name;
}

class PowerCut : public Qcow2Test, public testing::WithParamInterface<Scenario> {
 protected:
  static constexpr size_t kSize = 512 * 1024;

  void change(uint64_t offset, uint64_t bytes, size_t began, bool zero, uint64_t stamp) {
    for (uint64_t at = offset; at < offset + bytes; at += kSector)
      history[at / kSector].push_back({began, log->count(), zero ? 0 : stamp + at / kSector});
  }
  void one_request(Node& disk, std::mt19937& random, uint64_t stamp) {
    const uint64_t sectors = kSize / kSector;
    const uint64_t first = random() % sectors;
    const uint64_t bytes =
        std::min<uint64_t>(1 + random() % (random() % 5 == 0 ? 64 : 6), sectors - first) * kSector;
    const size_t began = log->count();
    switch (random() % 8) {
      case 0:
        ASSERT_EQ(zero(disk, first * kSector, bytes, random() % 2 == 0), 0);
        change(first * kSector, bytes, began, true, 0);
        break;
      case 1: {
        ASSERT_EQ(discard(disk, first * kSector, bytes), 0);
        const std::string now = read(disk, first * kSector, bytes);
        for (uint64_t at = 0; at < bytes; at += kSector) {
          const auto value = load_le<uint64_t>(&now[at]);
          history[first + at / kSector].push_back({began, log->count(), value});
        }
        break;
      }
      default: {
        std::string data(bytes, '\0');
        for (uint64_t at = 0; at < bytes; at += 8) {
          const uint64_t value = stamp + first + at / kSector;
          store_le(&data[at], value);
        }
        ASSERT_EQ(write(disk, first * kSector, data), 0);
        change(first * kSector, bytes, began, false, stamp);
      }
    }
  }
  // Whether `value` may be read after a cut at `cut`, when a flush that began at `flushed` has ended.
  static bool may_be(const std::vector<Change>& changes, uint64_t before, size_t flushed, size_t cut,
                     uint64_t value) {
    uint64_t promised = before;
    bool found = false;
    for (const Change& each : changes) {
      if (each.ended <= flushed)
        promised = each.stamp;
      else if (each.began <= cut && each.stamp == value)
        found = true;
    }
    return found || promised == value;
  }

  std::shared_ptr<WriteLogNode> log;
  std::vector<std::vector<Change>> history = std::vector<std::vector<Change>>(kSize / kSector);
};

TEST_P(PowerCut, leaves_a_whole_image_with_all_that_was_flushed) {
  json options = json::parse(GetParam().options);
  options["size"] = kSize;
  if (GetParam().backing) {
    std::string base(kSize, '\0');
    for (size_t at = 0; at < kSize; at += 8) store_le(&base[at], uint64_t{1} << 40 | at / kSector);
    make_file("base.raw", base);
    options["backing_file"] = path("base.raw");
    options["backing_fmt"] = "raw";
  }
  create("disk", options);
  std::vector<std::byte> start;
  for (const char c : content_of(path("disk"))) start.push_back(static_cast<std::byte>(c));

  log = test::add_write_log(context, opener, path("disk"));
  json file = "log";
  const std::string filter = GetParam().filter;
  if (filter == "preallocate")
    file = json{{"driver", filter}, {"prealloc-align", 65536}, {"prealloc-size", 65536}, {"file", file}};
  json disk = {{"driver", "qcow2"}, {"file", file}};
  if (filter == "compress") disk = json{{"driver", filter}, {"file", disk}};
  NodePtr node = open_options(disk);
  ASSERT_NE(node, nullptr);
  std::mt19937 random(11);
  struct Flush {
    size_t began, ended;
  };
  std::vector<Flush> flushes = {{0, 0}};
  for (int i = 0; i < 90; ++i) {
    one_request(*node, random, (uint64_t{1} << 20) * (i + 1u));
    if (HasFatalFailure()) return;
    if (random() % 4 == 0) {
      const size_t began = log->count();
      ASSERT_EQ(flush(*node), 0);
      flushes.push_back({began, log->count()});
    }
    if (GetParam().snapshots && i % 15 == 7) {
      SnapshotInfo info;
      info.name = "s" + std::to_string(i);
      ASSERT_TRUE(context.run_until(node->snapshots()->create(info)));
      if (i > 40) {
        const auto gone = context.run_until(node->snapshots()->remove(node->snapshots()->list()[0].id));
        ASSERT_TRUE(gone) << gone.error().message();
      }
    }
  }
  close(node);
  const auto records = log->records();
  log = nullptr;

  std::mt19937 chance(5);
  for (size_t cut = 0; cut <= records.size(); ++cut)
    for (int way = 0; way < 2; ++way) {
      SCOPED_TRACE("cut after " + std::to_string(cut) + " of " + std::to_string(records.size()) +
                   (way == 0 ? " records" : " records, the last in part"));
      const auto image = image_after_power_cut(start, records, cut, way == 0 ? nullptr : &chance);
      make_file("cut", std::string(reinterpret_cast<const char*>(image.data()), image.size()));
      // As it is: leaks are no harm, unless the image says that refcounts may be wrong.
      OpenFlags flags;
      flags.no_flush = flags.writable = flags.check = true;
      NodePtr survivor = open(path("cut"), "qcow2", flags);
      ASSERT_NE(survivor, nullptr);
      // Nor does a "copied" bit that a snapshot had not cleared yet.
      if (!survivor->dirty() && !GetParam().snapshots) {
        const auto report = context.run_until(survivor->checker()->check({}));
        ASSERT_TRUE(report) << report.error().message();
        ASSERT_EQ(report->corruptions + report->errors, 0u) << report->messages[0];
      }
      close(survivor);
      survivor = open(path("cut"), "qcow2");
      ASSERT_NE(survivor, nullptr);
      const auto repaired =
          context.run_until(survivor->checker()->check({.repair_leaks = true, .repair_errors = true}));
      ASSERT_TRUE(repaired);
      const auto clean = context.run_until(survivor->checker()->check({}));
      ASSERT_TRUE(clean);
      ASSERT_EQ(clean->corruptions + clean->errors + clean->leaks, 0u);
      size_t flushed = 0;
      for (const Flush& each : flushes)
        if (each.ended <= cut) flushed = each.began;
      const std::string now = read(*survivor, 0, kSize);
      for (size_t sector = 0; sector < kSize / kSector; ++sector) {
        const auto value = load_le<uint64_t>(&now[sector * kSector]);
        const uint64_t before = GetParam().backing ? uint64_t{1} << 40 | sector : 0;
        ASSERT_TRUE(may_be(history[sector], before, flushed, cut, value))
            << "sector " << sector << " is " << value;
      }
      close(survivor);
    }
}

// Each cut leaves an image with either width, and nothing to repair.
TEST_F(Qcow2Test, a_change_of_refcount_bits_is_whole_after_a_power_cut) {
  constexpr size_t kSize = 1 << 20;
  for (const int bits : {64, 2}) {
    SCOPED_TRACE(bits);
    std::string model(kSize, '\0');
    for (size_t i = 0; i < kSize / 2; ++i) model[i] = static_cast<char>('a' + i / kSector % 23);
    create("disk", {{"size", kSize}, {"cluster_size", 4096}});
    NodePtr node = open(path("disk"), "qcow2");
    ASSERT_EQ(write(*node, 0, model), 0);
    SnapshotInfo info;
    info.name = "s";
    ASSERT_TRUE(context.run_until(node->snapshots()->create(info)));
    ASSERT_EQ(write(*node, 8192, model.substr(0, 65536)), 0);
    model.replace(8192, 65536, model.substr(0, 65536));
    close(node);
    std::vector<std::byte> start;
    for (const char c : content_of(path("disk"))) start.push_back(static_cast<std::byte>(c));
    auto log = test::add_write_log(context, opener, path("disk"));
    node = open_options({{"driver", "qcow2"}, {"file", "log"}});
    ASSERT_NE(node, nullptr);
    const auto amended = context.run_until(node->amend({{"refcount_bits", bits}}));
    ASSERT_TRUE(amended) << amended.error().message();
    close(node);
    const auto records = log->records();
    log = nullptr;
    EXPECT_EQ(open(path("disk"), "qcow2", false)->format_specific_info()["data"]["refcount-bits"], bits);
    expect_check_clean("disk");
    std::mt19937 chance(7);
    for (size_t cut = 0; cut <= records.size(); ++cut) {
      SCOPED_TRACE(cut);
      const auto image = image_after_power_cut(start, records, cut, &chance);
      make_file("cut", std::string(reinterpret_cast<const char*>(image.data()), image.size()));
      NodePtr left = open(path("cut"), "qcow2", false);
      ASSERT_NE(left, nullptr);
      const CheckReport report = check(*left);
      ASSERT_EQ(report.corruptions + report.errors + report.leaks, 0u);
      ASSERT_TRUE(test::same(read(*left, 0, kSize), model));
      close(left);
    }
  }
}

constexpr Scenario kScenarios[] = {
    {"clusters_of_4k", R"({"cluster_size": 4096})", false, false},
    {"clusters_of_64k", "{}", false, false},
    {"tiny_tables", R"({"cluster_size": 512, "refcount_bits": 64})", false, false},
    {"backing_file", R"({"cluster_size": 4096})", true, false},
    {"extended_l2", R"({"cluster_size": 16384, "extended_l2": "on"})", true, false},
    {"lazy_refcounts", R"({"cluster_size": 4096, "lazy_refcounts": "on"})", false, false},
    {"version_2", R"({"cluster_size": 4096, "compat": "0.10"})", false, false},
    {"snapshots", R"({"cluster_size": 4096})", false, true},
    {"compressed", R"({"cluster_size": 4096})", false, false, "compress"},
    {"compressed_over_backing_file", R"({"cluster_size": 16384, "extended_l2": "on"})", true, false,
     "compress"},
    {"preallocated", R"({"cluster_size": 4096})", false, false, "preallocate"},
};
INSTANTIATE_TEST_SUITE_P(All, PowerCut, testing::ValuesIn(kScenarios),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace ostler::block
