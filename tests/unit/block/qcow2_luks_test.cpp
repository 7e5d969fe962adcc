// Encrypted qcow2 images, with qemu-img and qemu-io as judges.
#include <nlohmann/json.hpp>

#include "format_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

constexpr uint64_t kSize = (2 << 20) + 512;

class Qcow2LuksTest : public test::FormatTest {
 protected:
  void SetUp() override {
    FormatTest::SetUp();
    ASSERT_TRUE(opener.add_secret("good", "opens it"));
    ASSERT_TRUE(opener.add_secret("bad", "does not"));
  }
  json options_for(const std::string& file, const std::string& secret) {
    json options = {{"driver", "qcow2"}, {"file", {{"driver", "file"}, {"filename", file}}}};
    if (!secret.empty()) options["encrypt"]["key-secret"] = secret;
    return options;
  }
  NodePtr open_encrypted(const std::string& file, bool writable = true, const std::string& secret = "good") {
    auto node = context.run_until(opener.open(options_for(file, secret), fast(writable)));
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  std::string error_of(json options, bool writable) {
    auto node = context.run_until(opener.open(std::move(options), fast(writable)));
    return node ? "" : node.error().message();
  }
  void create_encrypted(const std::string& file, json options) {
    options["encrypt.format"] = "luks";
    options["encrypt.key-secret"] = "good";
    options["encrypt.iter-time"] = 1;
    if (!options.contains("size")) options["size"] = kSize;
    create(file, "qcow2", std::move(options));
  }
  // As qemu-img is told of it.
  static std::string theirs(const std::string& file, const std::string& more = "") {
    return "driver=qcow2,encrypt.key-secret=s,file.filename=" + file + more;
  }
  void expect_encrypted_content(const std::string& file, const std::string& content,
                                const std::string& more = "") {
    const std::string raw = make_file("expected.raw", content);
    expect_success("qemu-img compare" + secret_ + "--image-opts driver=raw,file.filename=" + raw + " " +
                   theirs(file, more));
    expect_success("qemu-img check" + secret_ + "--image-opts " + theirs(file, more));
  }
  void expect_clean(Node& node) {
    auto report = context.run_until(node.checker()->check({}));
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_EQ(report->corruptions + report->leaks + report->errors, 0u) << json(report->messages).dump();
  }
  Result<void> amend(Node& node, json options, bool force = false) {
    if (force) options["force"] = true;
    return context.run_until(node.amend(std::move(options)));
  }
  const std::string secret_ = " --object 'secret,id=s,data=opens it' ";
};

TEST_F(Qcow2LuksTest, written_at_random_agrees_with_a_model_and_with_qemu_img) {
  const json variants[] = {
      json::object(),
      {{"encrypt.cipher-alg", "aes-128"}, {"encrypt.hash-alg", "sha1"}, {"cluster_size", 4096}},
      {{"encrypt.cipher-alg", "serpent-256"}, {"encrypt.cipher-mode", "cbc"}, {"encrypt.ivgen-alg", "essiv"}},
      {{"cluster_size", 512}},
      {{"extended_l2", "on"}, {"cluster_size", 16384}},
      {{"compat", "0.10"}},
      {{"compat", "0.10"}, {"preallocation", "metadata"}},
      {{"preallocation", "metadata"}},
      {{"preallocation", "full"}, {"extended_l2", "on"}},
      {{"data_file", path("disk.data")}, {"preallocation", "falloc"}},
  };
  for (const json& variant : variants) {
    SCOPED_TRACE(variant.dump());
    const std::string file = path("disk.qcow2");
    create_encrypted(file, variant);
    NodePtr node = open_encrypted(file);
    ASSERT_NE(node, nullptr);
    std::string model(kSize, '\0');
    ASSERT_EQ(read(*node, 0, kSize) == model, true) << "a new disk is empty";
    churn(*node, model, 1, 30);
    expect_clean(*node);
    close(node);
    expect_encrypted_content(file, model);
  }
}

TEST_F(Qcow2LuksTest, nothing_written_is_readable_in_the_file) {
  const std::string file = path("disk.qcow2"), marker(4096, 'M');
  create_encrypted(file, json::object());
  NodePtr node = open_encrypted(file);
  const iovec piece = {const_cast<char*>(marker.data()), marker.size()};
  ASSERT_EQ(write(*node, 65536, marker), 0);
  EXPECT_EQ(context.run_until(node->write_compressed(0, Buffers(&piece, 1))), -ENOTSUP);
  close(node);
  EXPECT_EQ(content_of(file).find(std::string(64, 'M')), std::string::npos);
}

TEST_F(Qcow2LuksTest, images_of_qemu_img_read_and_write) {
  std::string model = random_content(kSize, 2);
  model.replace(128 << 10, 128 << 10, std::string(128 << 10, '\0'));
  const std::string file = path("disk.qcow2"), raw = make_file("raw", model);
  // One image only: qemu-img takes seconds to find out how many iterations are a millisecond.
  expect_success("qemu-img convert" + secret_ +
                 "-f raw -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s," + "encrypt.iter-time=1 " +
                 raw + " " + file);
  expect_success("qemu-io" + secret_ + "--image-opts " + theirs(file) + " -c 'write -c -P 6 128k 64k'");
  model.replace(128 << 10, 64 << 10, std::string(64 << 10, 6));
  NodePtr node = open_encrypted(file);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, kSize) == model, true);
  const json info = json::parse(run("qemu-img info -U --output=json " + file).output);
  EXPECT_EQ(node->format_specific_info(), info["format-specific"]);
  churn(*node, model, 3, 30);
  expect_clean(*node);
  close(node);
  expect_encrypted_content(file, model);
}

TEST_F(Qcow2LuksTest, it_needs_the_right_passphrase) {
  const std::string file = path("disk.qcow2");
  create_encrypted(file, json::object());
  EXPECT_NE(error_of(options_for(file, "bad"), false).find("none of its key slots"), std::string::npos);
  EXPECT_NE(error_of(options_for(file, "nobody"), false).find("--object secret"), std::string::npos);
  EXPECT_NE(error_of(options_for(file, ""), true).find("encrypt.key-secret=NAME"), std::string::npos);
  json wrong = options_for(file, "good");
  wrong["encrypt"]["format"] = "aes";
  EXPECT_NE(error_of(wrong, false).find("encrypted by 'luks'"), std::string::npos);
  // Without one it can be described and checked, not read.
  NodePtr node = open(file, "", false);
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->encrypted());
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EACCES);
  EXPECT_FALSE(context.run_until(node->reopen(true)));
  expect_clean(*node);
  close(node);
  create(path("plain"), "qcow2", {{"size", 512}});
  EXPECT_NE(error_of(options_for(path("plain"), "good"), false).find("not encrypted"), std::string::npos);
}

TEST_F(Qcow2LuksTest, snapshots_keep_what_was) {
  const std::string file = path("disk.qcow2");
  create_encrypted(file, json::object());
  NodePtr node = open_encrypted(file);
  std::string before(kSize, '\0');
  churn(*node, before, 4, 15);
  SnapshotInfo info;
  info.name = "a";
  ASSERT_TRUE(context.run_until(node->snapshots()->create(info)));
  std::string after = before;
  churn(*node, after, 5, 15);
  expect_clean(*node);
  close(node);
  expect_encrypted_content(file, after);
  node = open_encrypted(file);
  ASSERT_TRUE(context.run_until(node->snapshots()->apply("a")));
  close(node);
  expect_encrypted_content(file, before);
}

TEST_F(Qcow2LuksTest, overlays_and_backing_files_have_their_own_keys) {
  ASSERT_TRUE(opener.add_secret("other", "another"));
  const std::string base = path("base.qcow2"), file = path("disk.qcow2");
  create_encrypted(base, json::object());
  std::string model(kSize, '\0');
  NodePtr node = open_encrypted(base);
  churn(*node, model, 6, 15);
  close(node);
  create(file, "qcow2",
         {{"backing_file", "base.qcow2"},
          {"backing_fmt", "qcow2"},
          {"encrypt.format", "luks"},
          {"encrypt.key-secret", "other"},
          {"encrypt.iter-time", 1}});
  json options = options_for(file, "other");
  options["backing"]["encrypt"]["key-secret"] = "good";
  auto opened = context.run_until(opener.open(options, fast()));
  ASSERT_TRUE(opened) << opened.error().message();
  churn(**opened, model, 7, 15);
  close(*opened);
  const std::string raw = make_file("expected.raw", model);
  expect_success("qemu-img compare" + secret_ + "--object secret,id=o,data=another --image-opts driver=raw," +
                 "file.filename=" + raw + " driver=qcow2,encrypt.key-secret=o,backing.encrypt.key-secret=s," +
                 "file.filename=" + file);
}

TEST_F(Qcow2LuksTest, requests_need_not_be_whole_sectors) {
  const std::string file = path("disk.qcow2");
  create_encrypted(file, {{"cluster_size", 4096}});
  NodePtr node = open_encrypted(file);
  std::string model(kSize, '\0');
  std::mt19937 random(8);
  for (int i = 0; i < 60; ++i) {
    const uint64_t offset = random() % (kSize - 9000), bytes = 1 + random() % 9000;
    const std::string value = noise(random, bytes);
    ASSERT_EQ(write(*node, offset, value), 0);
    model.replace(offset, bytes, value);
    ASSERT_EQ(read(*node, offset / 2, 999) == model.substr(offset / 2, 999), true);
  }
  close(node);
  expect_encrypted_content(file, model);
}

TEST_F(Qcow2LuksTest, it_changes_its_size) {
  const std::string file = path("disk.qcow2");
  create_encrypted(file, json::object());
  NodePtr node = open_encrypted(file);
  std::string model(kSize, '\0');
  churn(*node, model, 9, 15);
  ASSERT_TRUE(context.run_until(node->truncate((1 << 20) + 512, Preallocation::kOff)));
  ASSERT_TRUE(context.run_until(node->truncate(3 << 20, Preallocation::kMetadata)));
  model.resize((1 << 20) + 512);
  model.resize(3 << 20);
  EXPECT_EQ(read(*node, 0, model.size()) == model, true);
  expect_clean(*node);
  close(node);
  expect_encrypted_content(file, model);
}

TEST_F(Qcow2LuksTest, passphrases_are_added_and_taken_away) {
  ASSERT_TRUE(opener.add_secret("new", "newer"));
  const std::string file = path("disk.qcow2");
  create_encrypted(file, json::object());
  NodePtr node = open_encrypted(file);
  ASSERT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"state", "active"}}}}));
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"new-secret", "new"}}}}));
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"state", "active"}, {"new-secret", "new"}, {"keyslot", 0}}}}));
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"state", "inactive"}}}}));
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"state", "inactive"}, {"keyslot", 3}}}}));
  EXPECT_FALSE(amend(*node, {{"encrypt", {{"state", "inactive"}, {"old-secret", "bad"}}}}));
  const auto last = amend(*node, {{"encrypt", {{"state", "inactive"}, {"old-secret", "good"}}}});
  ASSERT_FALSE(last);
  EXPECT_NE(last.error().message().find("--force"), std::string::npos);
  const auto added = amend(
      *node, {{"encrypt", {{"state", "active"}, {"new-secret", "new"}, {"keyslot", 7}, {"iter-time", 1}}}});
  ASSERT_TRUE(added) << added.error().message();
  close(node);
  expect_success("qemu-io --object secret,id=s,data=newer --image-opts " + theirs(file) +
                 " -c 'read -P 120 0 512'");
  expect_success("qemu-io" + secret_ + "--image-opts " + theirs(file) + " -c 'read -P 120 0 512'");
  node = open_encrypted(file, true, "new");
  ASSERT_TRUE(amend(*node, {{"encrypt", {{"state", "inactive"}, {"old-secret", "good"}}}}));
  close(node);
  EXPECT_NE(error_of(options_for(file, "good"), false), "");
  node = open_encrypted(file, true, "new");
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'x'));
  ASSERT_TRUE(amend(*node, {{"encrypt", {{"state", "inactive"}, {"keyslot", 7}}}}, true));
  close(node);
  EXPECT_NE(error_of(options_for(file, "new"), false), "");
}

TEST_F(Qcow2LuksTest, the_old_method_is_read_and_not_written) {
  const std::string file = path("disk.qcow2");
  expect_success("qemu-img create" + secret_ + "-f qcow2 -o encrypt.format=aes,encrypt.key-secret=s " + file +
                 " 1M");
  expect_success("qemu-io" + secret_ + "--image-opts " + theirs(file) + " -c 'write -P 5 64k 128k'");
  NodePtr node = open_encrypted(file, false);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 70001, 5000), std::string(5000, 5));
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 0));
  const json info = json::parse(run("qemu-img info --output=json " + file).output);
  EXPECT_EQ(node->format_specific_info(), info["format-specific"]);
  close(node);
  EXPECT_NE(error_of(options_for(file, "good"), true).find("only read"), std::string::npos);
}

TEST_F(Qcow2LuksTest, damaged_headers_are_refused) {
  const std::string good = path("good.qcow2"), file = path("disk.qcow2");
  create_encrypted(good, json::object());
  const std::string head = content_of(good).substr(0, 65536);
  const size_t at = head.find(std::string("\x05\x37\xbe\x77", 4));
  ASSERT_NE(at, std::string::npos);
  using namespace std::string_literals;
  struct Case {
    uint64_t offset;
    std::string value, word;
  };
  const Case cases[] = {
      {32, "\0\0\0\3"s, "method 3"},
      {32, "\0\0\0\0"s, "encryption method 0"},
      {at, "\x05\x37\xbe\x78"s, "encryption header"},
      {at + 4, "\0\0\0\x0f"s, "15 bytes"},
      {at + 8, std::string(8, '\0'), "encryption header"},
      {at + 8, "\0\0\0\0\0\0\0\1"s, "encryption header"},
      {at + 8, "\0\x40\0\0\0\0\0\0"s, "beyond the end"},
      {at + 16, std::string(8, '\0'), "encryption header"},
      {at + 16, "\x7f"s, "encryption header"},
      {at + 16, "\0\0\0\0\0\0\2\0"s, "data begin"},
  };
  for (const Case& each : cases) {
    std::filesystem::copy_file(good, file, std::filesystem::copy_options::overwrite_existing);
    patch(file, each.offset, each.value);
    expect_refused(file, "qcow2", {each.word});
  }
}

TEST_F(Qcow2LuksTest, creation_refuses_what_cannot_be) {
  const auto error = [&](json options) {
    options["size"] = "1M";
    return create_error(path("x"), "qcow2", std::move(options));
  };
  EXPECT_NE(error({{"encrypt.format", "luks"}}).find("key-secret"), std::string::npos);
  EXPECT_NE(error({{"encrypt.key-secret", "good"}}).find("format"), std::string::npos);
  EXPECT_NE(error({{"encrypt.format", "aes"}, {"encrypt.key-secret", "good"}}).find("aes"),
            std::string::npos);
  EXPECT_NE(error({{"encryption", "on"}}).find("encrypt.format=luks"), std::string::npos);
  EXPECT_NE(error({{"encrypt.format", "luks"},
                   {"encrypt.key-secret", "good"},
                   {"data_file", path("d")},
                   {"data_file_raw", "on"}})
                .find("data_file_raw"),
            std::string::npos);
}

}  // namespace
}  // namespace ostler::block
