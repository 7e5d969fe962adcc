// qcow2: what we write is what qemu-img reads, and the other way round.
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;
using test::same;
using test::Workload;

struct Variant {
  std::string name;
  json options;
  std::string backing;  // content's format, or ""
};

void PrintTo(const Variant& variant, std::ostream* to) {
  *to << variant.name;
}

class Qcow2Variants : public Qcow2Test, public testing::WithParamInterface<Variant> {
 protected:
  static constexpr size_t kSize = 3 * 1024 * 1024 + 512;

  void make(const std::string& name, std::string& model) {
    json options = GetParam().options;
    options["size"] = kSize;
    if (options.contains("data_file")) options["data_file"] = path("disk.data");
    if (!GetParam().backing.empty()) {
      // Shorter than the disk on it.
      std::string base(2 * 1024 * 1024, '\0');
      for (size_t i = 0; i < base.size(); ++i) base[i] = static_cast<char>('a' + i / 512 % 23);
      make_file("base.raw", base);
      if (GetParam().backing == "qcow2") qemu_img("convert -f raw -O qcow2 base.raw base.qcow2");
      options["backing_file"] = "base." + GetParam().backing;
      options["backing_fmt"] = GetParam().backing;
      model.replace(0, base.size(), base);
    }
    create(name, options);
  }
  void apply(Node& node, Workload& work) {
    const Workload::Request request = work.next();
    switch (request.kind) {
      case Workload::Request::kWrite:
        ASSERT_EQ(write(node, request.offset, request.data), 0);
        work.model.replace(request.offset, request.bytes, request.data);
        break;
      case Workload::Request::kZero:
        ASSERT_EQ(zero(node, request.offset, request.bytes, request.may_unmap), 0);
        work.model.replace(request.offset, request.bytes, std::string(request.bytes, '\0'));
        break;
      case Workload::Request::kDiscard: {
        ASSERT_EQ(discard(node, request.offset, request.bytes), 0);
        // Each sector is as it was or zero.
        const std::string now = read(node, request.offset, request.bytes);
        for (size_t i = 0; i < now.size(); i += 512)
          if (now.compare(i, 512, work.model, request.offset + i, 512) != 0) {
            ASSERT_TRUE(same(now.substr(i, 512), std::string(512, '\0')));
          }
        work.model.replace(request.offset, request.bytes, now);
        break;
      }
    }
  }
};

TEST_P(Qcow2Variants, random_requests_agree_with_a_model_and_with_qemu_img) {
  for (const unsigned seed : {1u}) {
    SCOPED_TRACE(seed);
    Workload work(seed, kSize);
    make("disk", work.model);
    NodePtr node = open(path("disk"), "qcow2");
    ASSERT_NE(node, nullptr);
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 60; ++i) {
        apply(*node, work);
        if (HasFatalFailure()) return;
        if (work.random() % 20 == 0) {
          ASSERT_EQ(flush(*node), 0);
        }
        const uint64_t at = work.random() % (kSize / 512) * 512;
        const uint64_t bytes = std::min<uint64_t>(65536, kSize - at);
        ASSERT_TRUE(same(read(*node, at, bytes), work.model.substr(at, bytes)))
            << "request " << i << " at " << at;
      }
      ASSERT_TRUE(same(read(*node, 0, kSize), work.model));
      close(node);
      expect_check_clean("disk");
      expect_content("disk", work.model);
      node = open(path("disk"), "");
      ASSERT_NE(node, nullptr);
      EXPECT_EQ(node->driver(), "qcow2");
      const CheckReport report = check(*node);
      EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
    }
    close(node);
  }
}

SnapshotInfo named(const std::string& name) {
  SnapshotInfo info;
  info.name = name;
  return info;
}

TEST_P(Qcow2Variants, snapshots_and_resizes_agree_with_a_model_and_with_qemu_img) {
  if (GetParam().options.contains("data_file")) return;  // has neither
  Workload work(7, kSize);
  make("disk", work.model);
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  const bool one_bit = GetParam().options.value("refcount_bits", 16) == 1;
  const bool v2 = GetParam().options.value("compat", "") == "0.10";
  // A refcount of two bits counts to three: a snapshot, the disk, and a snapshot that is being applied.
  const size_t most_snapshots = GetParam().options.value("refcount_bits", 16) == 2 ? 1 : 4;
  std::map<std::string, std::string> snapshots;
  for (int round = 0; round < 15; ++round) {
    for (int i = 0; i < 8; ++i) {
      apply(*node, work);
      if (HasFatalFailure()) return;
    }
    const auto what = work.random() % 5;
    const std::string name = "s" + std::to_string(round);
    if (what < 2 && !one_bit && snapshots.size() < most_snapshots) {
      const auto made = context.run_until(node->snapshots()->create(named(name)));
      ASSERT_TRUE(made) << made.error().message();
      snapshots[name] = work.model;
    } else if (what == 2 && !snapshots.empty()) {
      const auto gone = context.run_until(node->snapshots()->remove(snapshots.begin()->first));
      ASSERT_TRUE(gone) << gone.error().message();
      snapshots.erase(snapshots.begin());
    } else if (what == 3 && !snapshots.empty()) {
      const auto applied = context.run_until(node->snapshots()->apply(snapshots.begin()->first));
      ASSERT_TRUE(applied) << applied.error().message();
      work.model = snapshots.begin()->second;
    } else if (!(v2 && !snapshots.empty())) {
      const uint64_t size = (2 * 1024 * 1024 + work.random() % (2 * 1024 * 1024)) / 512 * 512;
      const auto resized = context.run_until(node->truncate(size, Preallocation::kOff));
      ASSERT_TRUE(resized) << resized.error().message();
      work.model.resize(size, '\0');
    }
    ASSERT_EQ(node->size(), work.model.size());
    ASSERT_TRUE(same(read(*node, 0, work.model.size()), work.model)) << "round " << round;
    if (round % 5 == 4) {
      close(node);
      expect_check_clean("disk");
      expect_content("disk", work.model);
      for (const auto& [snapshot, content] : snapshots) {
        const std::string output = path("snapshot.raw");
        qemu_img("convert -f qcow2 -l " + snapshot + " -O raw disk snapshot.raw");
        // qemu-img keeps the active disk's size.
        const size_t common = std::min(content.size(), work.model.size());
        EXPECT_TRUE(same(content_of(output).substr(0, common), content.substr(0, common))) << snapshot;
        NodePtr reader = open(path("disk"), "qcow2", false);
        ASSERT_NE(reader, nullptr);
        ASSERT_TRUE(context.run_until(reader->snapshots()->load(snapshot)));
        EXPECT_TRUE(same(read(*reader, 0, reader->size()), content)) << snapshot;
        close(reader);
      }
      node = open(path("disk"), "qcow2");
      ASSERT_NE(node, nullptr);
      const CheckReport report = check(*node);
      EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
    }
  }
  close(node);
}

TEST_P(Qcow2Variants, images_of_qemu_img_read_the_same) {
  std::string list;
  json options = GetParam().options;
  if (options.contains("data_file")) options["data_file"] = path("disk.data");
  for (const auto& [key, value] : options.items())
    list +=
        (list.empty() ? "" : ",") + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
  std::mt19937 random(5);
  std::string content(kSize, '\0');
  for (int i = 0; i < 40; ++i) {
    const size_t at = random() % (kSize - 70000);
    content.replace(at, 66000, std::string(66000, static_cast<char>(random())));
  }
  make_file("source.raw", content);
  const std::string o = list.empty() ? "" : " -o " + list;
  for (const std::string compressed : {"", " -c"}) {
    if (!compressed.empty() &&
        (GetParam().options.contains("data_file") || GetParam().options.contains("preallocation")))
      continue;
    qemu_img("convert -f raw -O qcow2" + compressed + o + " source.raw theirs");
    const NodePtr node = open(path("theirs"), "", false);
    ASSERT_NE(node, nullptr);
    EXPECT_TRUE(same(read(*node, 0, kSize), content));
    const CheckReport report = check(*node);
    EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
  }
}

std::vector<Variant> variants() {
  return {{"v3", json::object(), ""},
          {"v2", {{"compat", "0.10"}}, ""},
          {"cluster_512", {{"cluster_size", 512}}, ""},
          {"cluster_4k", {{"cluster_size", 4096}}, ""},
          {"cluster_2M", {{"cluster_size", 2097152}}, ""},
          {"refcount_1", {{"refcount_bits", 1}}, ""},
          {"refcount_2_cluster_512", {{"refcount_bits", 2}, {"cluster_size", 512}}, ""},
          {"refcount_8", {{"refcount_bits", 8}}, ""},
          {"refcount_64_cluster_512", {{"refcount_bits", 64}, {"cluster_size", 512}}, ""},
          {"extended_l2", {{"extended_l2", "on"}}, ""},
          {"extended_l2_16k", {{"extended_l2", "on"}, {"cluster_size", 16384}}, ""},
          {"lazy", {{"lazy_refcounts", "on"}}, ""},
          {"zstd", {{"compression_type", "zstd"}}, ""},
          {"data_file", {{"data_file", "disk.data"}}, ""},
          {"data_file_raw", {{"data_file", "disk.data"}, {"data_file_raw", "on"}}, ""},
          {"metadata", {{"preallocation", "metadata"}}, ""},
          {"falloc", {{"preallocation", "falloc"}}, ""},
          {"full", {{"preallocation", "full"}}, ""},
          {"backing_raw", json::object(), "raw"},
          {"backing_qcow2", {{"cluster_size", 4096}}, "qcow2"},
          {"backing_v2", {{"compat", "0.10"}}, "raw"},
          {"backing_extended_l2", {{"extended_l2", "on"}}, "qcow2"}};
}

INSTANTIATE_TEST_SUITE_P(All, Qcow2Variants, testing::ValuesIn(variants()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace ostler::block
