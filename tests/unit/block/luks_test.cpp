// LUKS1 volumes, with qemu-img and cryptsetup as judges.
#include <nlohmann/json.hpp>

#include "block/filters/fault_node.h"
#include "format_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

class LuksTest : public test::FormatTest {
 protected:
  void SetUp() override {
    FormatTest::SetUp();
    ASSERT_TRUE(opener.add_secret("good", "opens it"));
    ASSERT_TRUE(opener.add_secret("bad", "does not"));
  }
  json options_for(const std::string& file, const std::string& secret) {
    json options = {{"driver", "luks"}, {"file", {{"driver", "file"}, {"filename", file}}}};
    if (!secret.empty()) options["key-secret"] = secret;
    return options;
  }
  NodePtr open_luks(const std::string& file, bool writable = true) {
    auto node = context.run_until(opener.open(options_for(file, "good"), fast(writable)));
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  Result<void> amend(Node& node, json options) { return context.run_until(node.amend(std::move(options))); }
  std::string error_of(const std::string& file, const std::string& secret, bool writable) {
    auto node = context.run_until(opener.open(options_for(file, secret), fast(writable)));
    return node ? "" : node.error().message();
  }
  void create_luks(const std::string& file, json options) {
    options["key-secret"] = "good";
    options["iter-time"] = 1;
    create(file, "luks", std::move(options));
  }
  const std::string secret_ = " --object 'secret,id=s,data=opens it' ";
  void expect_luks_content(const std::string& file, const std::string& content) {
    const std::string raw = make_file("expected.raw", content);
    expect_success("qemu-img compare" + secret_ + "--image-opts driver=raw,file.filename=" + raw +
                   " driver=luks,key-secret=s,file.filename=" + file);
  }
};

constexpr uint64_t kSize = (1 << 20) + 512;

TEST_F(LuksTest, luks_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  for (const char* cipher : {"aes-256", "aes-128"}) {
    for (const char* hash : {"sha256", "sha1", "sha512"}) {
      SCOPED_TRACE(std::string(cipher) + " " + hash);
      const std::string file = path("disk.luks");
      create_luks(file, {{"size", kSize}, {"cipher-alg", cipher}, {"hash-alg", hash}});
      NodePtr node = open_luks(file);
      ASSERT_NE(node, nullptr);
      ASSERT_EQ(node->size(), kSize);
      std::string model = read(*node, 0, kSize);  // what nobody wrote
      churn(*node, model, 1, 30);
      close(node);
      expect_luks_content(file, model);
    }
  }
}

// Each cipher, mode, source of vectors and hash is in one at least.
TEST_F(LuksTest, luks_of_every_algorithm_agrees_with_qemu_img) {
  struct Case {
    const char *cipher, *mode, *ivgen, *ivgen_hash, *hash;
    const char* header;  // the mode there
  };
  const Case cases[] = {
      {"aes-192", "xts", "plain", "", "sha224", "xts-plain"},
      {"aes-256", "ctr", "plain64", "", "sha384", "ctr-plain64"},
      {"aes-256", "ecb", "plain64", "", "md5", "ecb-plain64"},
      {"aes-256", "xts", "plain64", "sha1", "sha256", "xts-plain64:sha1"},
      {"aes-128", "cbc", "essiv", "", "ripemd160", "cbc-essiv:sha256"},
      {"aes-192", "xts", "essiv", "md5", "sha256", "xts-essiv:md5"},
      {"cast5-128", "cbc", "plain64", "", "sha256", "cbc-plain64"},
      {"cast5-128", "cbc", "plain", "", "sha256", "cbc-plain"},
      {"cast5-128", "cbc", "essiv", "md5", "sha256", "cbc-essiv:md5"},
      {"cast5-128", "ctr", "plain64", "", "sha256", "ctr-plain64"},
      {"serpent-128", "cbc", "plain", "", "sha256", "cbc-plain"},
      {"serpent-192", "xts", "plain64", "", "sha256", "xts-plain64"},
      {"serpent-256", "xts", "plain64", "", "sha512", "xts-plain64"},
      {"twofish-128", "xts", "essiv", "sha256", "sha256", "xts-essiv:sha256"},
      {"twofish-256", "cbc", "essiv", "sha256", "sha1", "cbc-essiv:sha256"},
      {"twofish-256", "ctr", "essiv", "md5", "sha256", "ctr-essiv:md5"},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(std::string(each.cipher) + " " + each.header + " " + each.hash);
    const std::string file = path("disk.luks");
    json options = {{"size", 1 << 17},
                    {"cipher-alg", each.cipher},
                    {"cipher-mode", each.mode},
                    {"ivgen-alg", each.ivgen},
                    {"hash-alg", each.hash}};
    if (*each.ivgen_hash != '\0') options["ivgen-hash-alg"] = each.ivgen_hash;
    create_luks(file, options);
    EXPECT_STREQ(part_of(file, 40, 32).c_str(), each.header);
    NodePtr node = open_luks(file);
    ASSERT_NE(node, nullptr);
    const json ours = node->format_specific_info(),
               theirs = json::parse(run("qemu-img info -U --output=json " + file).output)["format-specific"];
    EXPECT_EQ(ours, theirs);
    std::string model = read(*node, 0, 1 << 17);
    churn(*node, model, 5, 10, 20000);
    close(node);
    expect_luks_content(file, model);
    // What qemu-io writes is read, and a header that is written again says the same.
    expect_success("qemu-io" + secret_ + "--image-opts driver=luks,key-secret=s,file.filename=" + file +
                   " -c 'write -P 120 3k 70k'");
    model.replace(3 << 10, 70 << 10, std::string(70 << 10, 'x'));
    const std::string names = part_of(file, 0, 112);
    node = open_luks(file);
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(read(*node, 0, model.size()) == model, true);
    EXPECT_TRUE(amend(*node, {{"state", "active"}, {"new-secret", "bad"}, {"iter-time", 1}}));
    close(node);
    EXPECT_EQ(part_of(file, 0, 112) == names, true);
    EXPECT_EQ(error_of(file, "bad", false), "");
  }
}

// The stripes of a key of 24 bytes are not whole sectors. qemu-img ends by an assertion on these; cryptsetup
// has Serpent only where the kernel has it.
TEST_F(LuksTest, luks_keys_whose_stripes_end_within_a_sector) {
  for (const char* cipher : {"aes-192", "serpent-192"}) {
    SCOPED_TRACE(cipher);
    const std::string file = path("disk.luks");
    create_luks(file, {{"size", kSize}, {"cipher-alg", cipher}, {"cipher-mode", "cbc"}});
    NodePtr node = open_luks(file);
    ASSERT_NE(node, nullptr);
    std::string model = read(*node, 0, kSize);
    churn(*node, model, 6, 10);
    close(node);
    node = open_luks(file);
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(read(*node, 0, kSize) == model, true);
    close(node);
    if (cipher == std::string("aes-192")) {
      const test::Ran opened =
          run("printf 'opens it' | /sbin/cryptsetup open --test-passphrase --key-file - " + file);
      EXPECT_EQ(opened.status, 0) << opened.output;
    }
  }
}

// Past 2 TiB "plain" counts from 0 again; the others go on.
TEST_F(LuksTest, luks_vectors_of_32_bits_begin_again) {
  using namespace std::string_literals;
  constexpr uint64_t kTurn = uint64_t{512} << 32;
  for (const char* ivgen : {"plain", "plain64", "essiv"}) {
    SCOPED_TRACE(ivgen);
    const std::string file = path("disk.luks"), sector(512, 's');
    create_luks(file, {{"size", kTurn + 512}, {"cipher-mode", "cbc"}, {"ivgen-alg", ivgen}});
    NodePtr node = open_luks(file);
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(write(*node, 0, sector), 0);
    ASSERT_EQ(write(*node, kTurn, sector), 0);
    close(node);
    constexpr uint64_t kPayload = 4096 + 8 * 131072;  // keys of 32 bytes, 4000 stripes, whole pages
    EXPECT_EQ(part_of(file, kPayload, 512) == part_of(file, kPayload + kTurn, 512), ivgen == "plain"s);
  }
}

TEST_F(LuksTest, luks_of_qemu_img_reads_and_writes) {
  std::string model = random_content(1 << 20, 2);
  const std::string raw = make_file("raw", model), file = path("disk.luks");
  // One image only: qemu-img takes seconds to find out how many iterations are a millisecond.
  expect_success("qemu-img convert" + secret_ +
                 "-f raw -O luks -o key-secret=s,iter-time=1,cipher-alg=aes-128,hash-alg=sha1 " + raw + " " +
                 file);
  NodePtr node = open_luks(file);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, model.size()) == model, true);
  churn(*node, model, 3, 30);
  close(node);
  expect_luks_content(file, model);
}

TEST_F(LuksTest, luks_is_understood_by_cryptsetup) {
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", kSize}});
  const test::Ran dump = run("/sbin/cryptsetup luksDump " + file);
  EXPECT_EQ(dump.status, 0) << dump.output;
  for (const char* word : {"aes", "xts-plain64", "sha256", "Key Slot 0: ENABLED", "Key Slot 1: DISABLED"})
    EXPECT_NE(dump.output.find(word), std::string::npos) << dump.output;
  EXPECT_EQ(run("printf 'opens it' | /sbin/cryptsetup open --test-passphrase --key-file - " + file).status,
            0);
  EXPECT_NE(run("printf 'does not' | /sbin/cryptsetup open --test-passphrase --key-file - " + file).status,
            0);
}

TEST_F(LuksTest, luks_needs_the_right_passphrase) {
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", kSize}});
  EXPECT_NE(error_of(file, "bad", false).find("none of its key slots"), std::string::npos);
  EXPECT_NE(error_of(file, "nobody", false).find("--object secret"), std::string::npos);
  EXPECT_NE(error_of(file, "", true).find("key-secret=NAME"), std::string::npos);
  // Without one it can be described, not read.
  NodePtr node = open(file, "", false);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->driver(), "luks");
  EXPECT_TRUE(node->encrypted());
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EACCES);
  const json ours = node->format_specific_info(),
             theirs = json::parse(run("qemu-img info --output=json " + file).output)["format-specific"];
  EXPECT_EQ(ours, theirs);
  close(node);
}

TEST_F(LuksTest, luks_passphrases_are_added_and_taken_away) {
  ASSERT_TRUE(opener.add_secret("new", "newer"));
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", kSize}});
  NodePtr node = open_luks(file);
  ASSERT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  const auto last = amend(*node, {{"state", "inactive"}, {"old-secret", "good"}});
  ASSERT_FALSE(last);
  EXPECT_NE(last.error().message().find("--force"), std::string::npos);
  EXPECT_FALSE(amend(*node, {{"state", "inactive"}, {"keyslot", 0}}));
  ASSERT_TRUE(amend(*node, {{"state", "active"}, {"new-secret", "new"}, {"keyslot", 7}, {"iter-time", 1}}));
  close(node);
  EXPECT_EQ(error_of(file, "good", false), "");
  EXPECT_EQ(error_of(file, "new", false), "");
  expect_success(
      "qemu-io --object secret,id=s,data=newer --image-opts driver=luks,key-secret=s,file.filename=" + file +
      " -c 'read -P 120 0 512'");
  node = open_luks(file);
  ASSERT_TRUE(amend(*node, {{"state", "inactive"}, {"old-secret", "good"}}));
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'x')) << "an open volume goes on";
  close(node);
  EXPECT_NE(error_of(file, "good", false).find("none of its key slots"), std::string::npos);
  EXPECT_EQ(error_of(file, "new", true), "");
}

TEST_F(LuksTest, luks_all_eight_key_slots_can_be_taken) {
  ASSERT_TRUE(opener.add_secret("new", "newer"));
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", 512}});
  NodePtr node = open_luks(file);
  const json add = {{"state", "active"}, {"new-secret", "new"}, {"iter-time", 1}};
  for (int slot = 1; slot < 8; ++slot) ASSERT_TRUE(amend(*node, add));
  const auto ninth = amend(*node, add);
  ASSERT_FALSE(ninth);
  EXPECT_NE(ninth.error().message().find("all key slots are in use"), std::string::npos);
  // One passphrase in seven of them.
  ASSERT_TRUE(amend(*node, {{"state", "inactive"}, {"old-secret", "new"}}));
  close(node);
  EXPECT_NE(error_of(file, "new", false), "");
  EXPECT_EQ(error_of(file, "good", false), "");
}

TEST_F(LuksTest, luks_mistakes_of_amend_are_refused) {
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", 512}});
  const std::string before = content_of(file);
  NodePtr node = open_luks(file);
  const json cases[] = {
      json::object(),
      {{"state", "active"}},
      {{"state", "sleeping"}, {"new-secret", "good"}},
      {{"state", "active"}, {"new-secret", "nobody"}},
      {{"state", "active"}, {"new-secret", "bad"}, {"keyslot", 0}},
      {{"state", "active"}, {"new-secret", "bad"}, {"keyslot", 8}},
      {{"state", "active"}, {"new-secret", "bad"}, {"iter-time", 0}},
      {{"state", "active"}, {"new-secret", "bad"}, {"old-secret", "good"}},
      {{"state", "inactive"}},
      {{"state", "inactive"}, {"old-secret", "bad"}},
      {{"state", "inactive"}, {"keyslot", 3}},
      {{"state", "inactive"}, {"old-secret", "good"}, {"iter-time", 1}},
      {{"size", 1024}},
  };
  for (const json& each : cases) EXPECT_FALSE(amend(*node, each)) << each.dump();
  close(node);
  node = open_luks(file, false);
  EXPECT_FALSE(amend(*node, {{"state", "active"}, {"new-secret", "bad"}})) << "it is read-only";
  close(node);
  auto locked = context.run_until(opener.open(options_for(file, ""), fast(false)));
  ASSERT_TRUE(locked);
  EXPECT_FALSE(amend(**locked, {{"state", "active"}, {"new-secret", "bad"}})) << "it is not open";
  close(*locked);
  EXPECT_EQ(content_of(file) == before, true);
}

// Each write and flush in turn: one passphrase that opened the volume still does, and so does the new one if
// the change was told to be done.
TEST_F(LuksTest, luks_a_change_of_passphrases_that_fails_keeps_the_old_ones) {
  ASSERT_TRUE(opener.add_secret("new", "newer"));
  create_luks(path("good.luks"), {{"size", 512}});
  for (const bool adds : {true, false}) {
    bool done = false;
    for (unsigned nth = 0; !done; ++nth) {
      SCOPED_TRACE(nth);
      ASSERT_LT(nth, 20u);
      const std::string file = path("disk.luks");
      std::filesystem::copy_file(path("good.luks"), file, std::filesystem::copy_options::overwrite_existing);
      const json add = {{"state", "active"}, {"new-secret", "new"}, {"iter-time", 1}};
      if (!adds) {
        NodePtr node = open_luks(file);
        ASSERT_TRUE(amend(*node, add));
        close(node);
      }
      json options = options_for(file, adds ? "good" : "new");
      options["file"] = {{"driver", "blkdebug"}, {"node-name", "faults"}, {"image", options["file"]}};
      OpenFlags flags;
      flags.writable = true;
      auto opened = context.run_until(opener.open(std::move(options), flags));
      ASSERT_TRUE(opened) << opened.error().message();
      NodePtr node = *std::move(opened);
      auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
      faults->add({.kinds = kFaultWrite | kFaultFlush, .skip = nth, .once = true, .transfer = nth * 512});
      done = amend(*node, adds ? add : json{{"state", "inactive"}, {"old-secret", "good"}}).has_value();
      faults->clear();
      faults = nullptr;
      close(node);
      EXPECT_EQ(error_of(file, adds ? "good" : "new", true), "");
      if (!done) continue;
      EXPECT_EQ(error_of(file, "new", true), "");
      EXPECT_EQ(error_of(file, "good", true).empty(), adds);
    }
  }
}

TEST_F(LuksTest, luks_requests_need_not_be_whole_sectors) {
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", kSize}});
  NodePtr node = open_luks(file);
  std::string model = read(*node, 0, kSize);
  std::mt19937 random(4);
  for (int i = 0; i < 30; ++i) {
    const uint64_t offset = random() % (kSize - 3000), bytes = 1 + random() % 3000;
    const std::string value = noise(random, bytes);
    ASSERT_EQ(write(*node, offset, value), 0);
    model.replace(offset, bytes, value);
    ASSERT_EQ(read(*node, offset / 2, 999) == model.substr(offset / 2, 999), true);
  }
  close(node);
  expect_luks_content(file, model);
}

TEST_F(LuksTest, luks_changes_its_size) {
  const std::string file = path("disk.luks");
  create_luks(file, {{"size", kSize}});
  NodePtr node = open_luks(file);
  EXPECT_TRUE(context.run_until(node->truncate(2 << 20, Preallocation::kOff)));
  EXPECT_EQ(node->size(), 2u << 20);
  EXPECT_EQ(write(*node, (2 << 20) - 512, std::string(512, 'x')), 0);
  close(node);
  const json info = json::parse(run("qemu-img info --output=json " + file).output);
  EXPECT_EQ(info["virtual-size"], 2 << 20);
}

TEST_F(LuksTest, luks_measures_header_and_content) {
  json options = {{"size", "10M"}, {"key-secret", "good"}};
  const auto ours = context.run_until(find_driver("luks")->measure(options, nullptr));
  ASSERT_TRUE(ours);
  // Eight slots of 4000 stripes, as qemu-img has it.
  EXPECT_EQ((*ours)["required"], 2068480 + (10 << 20));
  EXPECT_EQ((*ours)["fully-allocated"], 2068480 + (10 << 20));
}

TEST_F(LuksTest, luks_damaged_headers_are_refused) {
  struct Case {
    uint64_t offset;
    std::string value, word;
  };
  using namespace std::string_literals;
  const Case cases[] = {
      {0, "XXXX", "signature"},
      {6, "\0\2"s, "version 2"},
      {8, "cast6\0"s, "cast6-xts-plain64"},
      {8, "cast5\0"s, "cast5-xts-plain64"},
      {8, "\x01"s, "not text"},
      {40, "cbc-plain64\0"s, "keys of 64"},
      {40, "xts\0"s, "aes-xts with"},
      {40, "lrw-plain64\0"s, "lrw-plain64"},
      {40, "xts-benbi\0"s, "xts-benbi"},
      {40, "xts-essiv\0"s, "none is named"},
      {40, "xts-essiv:sha1\0"s, "sha1 is not"},
      {40, "xts-essiv:tiger\0"s, "xts-essiv:tiger"},
      {40, "xts-plain64:\0"s, "xts-plain64:"},
      {72, "whirlpool\0"s, "whirlpool"},
      {104, "\0\0\0\1"s, "data begin"},
      {104, "\x7f\0\0\0"s, "data begin"},
      {108, "\0\0\0\x10"s, "keys of 16"},
      {108, "\0\0\0\x41"s, "keys of 65"},
      {108, "\x7f\0\0\x10"s, "keys of"},
      {164, "\0\0\0\0"s, "iterations"},
      {164, "\xff\xff\xff\xff"s, "iterations"},
      {208, "\0\0\0\0"s, "key slot 0"},
      {212, "\xff\xff\xff\xff"s, "iterations"},
      {212, "\0\0\0\0"s, "iterations"},
      {248, "\0\0\0\0"s, "key slot 0"},
      {248, "\x7f\0\0\0"s, "key slot 0"},
      {252, "\0\0\0\1"s, "key slot 0"},
  };
  create_luks(path("good.luks"), {{"size", 512}});
  for (const Case& each : cases) {
    const std::string file = path("disk.luks");
    std::filesystem::copy_file(path("good.luks"), file, std::filesystem::copy_options::overwrite_existing);
    patch(file, each.offset, each.value);
    expect_refused(file, "luks", {each.word});
  }
}

TEST_F(LuksTest, luks_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "luks", {{"size", "1M"}}).find("key-secret"), std::string::npos);
  EXPECT_NE(
      create_error(path("x"), "luks", {{"size", "1M"}, {"key-secret", "good"}, {"cipher-alg", "twofish-192"}})
          .find("twofish-192"),
      std::string::npos);
  const auto refused = [&](json options) {
    options.update({{"size", "1M"}, {"key-secret", "good"}});
    return create_error(path("x"), "luks", options);
  };
  EXPECT_NE(refused({{"cipher-alg", "cast5-128"}, {"ivgen-alg", "essiv"}}).find("cbc goes with it"),
            std::string::npos);
  EXPECT_NE(refused({{"ivgen-alg", "essiv"}, {"ivgen-hash-alg", "sha1"}}).find("sha256 is"),
            std::string::npos);
  EXPECT_NE(
      refused({{"cipher-alg", "cast5-128"}, {"cipher-mode", "cbc"}, {"ivgen-alg", "essiv"}}).find("md5 is"),
      std::string::npos);
  EXPECT_NE(refused({{"cipher-mode", "lrw"}}).find("lrw"), std::string::npos);
  EXPECT_NE(refused({{"hash-alg", "whirlpool"}}).find("whirlpool"), std::string::npos);
  EXPECT_NE(create_error(path("x"), "luks", {{"size", "1M"}, {"key-secret", "good"}, {"iter-time", 0}})
                .find("iter-time"),
            std::string::npos);
}

}  // namespace
}  // namespace ostler::block
