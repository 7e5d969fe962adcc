// Images of a format: made by us or by qemu-img, changed at random beside a model, judged by qemu-img.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "block/capabilities.h"
#include "block_fixture.h"

namespace ostler::block::test {

struct Ran {
  int status = -1;  // exit status
  std::string output;
};

class FormatTest : public BlockTest {
 protected:
  // Runs a command line; both of its outputs together. Again when qemu-img has not been able to measure how
  // fast this host derives keys, for which it compares two readings of a coarse clock.
  static Ran run(const std::string& command) {
    constexpr unsigned kTries = 50;
    Ran ran = run_once(command);
    for (unsigned i = 1;
         i < kTries && ran.output.find("Unable to get accurate CPU usage") != std::string::npos; ++i)
      ran = run_once(command);
    return ran;
  }
  static Ran run_once(const std::string& command) {
    Ran ran;
    FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr) return ran;
    char buffer[4096];
    for (size_t got = 0; (got = fread(buffer, 1, sizeof buffer, pipe)) != 0;) ran.output.append(buffer, got);
    const int status = pclose(pipe);
    ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return ran;
  }
  void expect_success(const std::string& command) {
    const Ran ran = run(command);
    EXPECT_EQ(ran.status, 0) << command << "\n" << ran.output;
  }

  void create(const std::string& file, const std::string& format, nlohmann::json options) {
    const std::string error = create_error(file, format, std::move(options));
    EXPECT_EQ(error, "");
  }
  std::string create_error(const std::string& file, const std::string& format, nlohmann::json options) {
    const auto made = context.run_until(opener.create(file, format, std::move(options), fast()));
    return made ? "" : made.error().message();
  }
  // Without flushes: tests need not wait for the disk.
  static OpenFlags fast(bool writable = true) {
    OpenFlags flags;
    flags.writable = writable;
    flags.no_flush = true;
    return flags;
  }

  // Reads, writes and zeroes at random, with every read compared.
  void churn(Node& node, std::string& model, unsigned seed, int operations, uint64_t most_bytes = 200000) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    for (int i = 0; i < operations; ++i) {
      const uint64_t sectors = model.size() / 512;
      const uint64_t first = random() % sectors;
      const uint64_t count = 1 + random() % std::min<uint64_t>(sectors - first, most_bytes / 512);
      const uint64_t offset = first * 512, length = count * 512;
      switch (random() % 4) {
        case 0:
          ASSERT_EQ(read(node, offset, length) == model.substr(offset, length), true) << "operation " << i;
          break;
        case 1:
          ASSERT_EQ(zero(node, offset, length, random() % 2 == 0), 0) << "operation " << i;
          model.replace(offset, length, std::string(length, '\0'));
          break;
        default: {
          const std::string bytes = noise(random, length);
          ASSERT_EQ(write(node, offset, bytes), 0) << "operation " << i;
          model.replace(offset, length, bytes);
        }
      }
    }
    ASSERT_EQ(read(node, 0, model.size()) == model, true);
  }
  static std::string noise(std::mt19937& random, size_t bytes) {
    std::string text(bytes, '\0');
    // Words that repeat now and then, so that it can be packed.
    for (size_t i = 0; i < bytes; i += 4) {
      const uint32_t word = random() & 0x0fff0fff;
      text.replace(i, std::min<size_t>(4, bytes - i), reinterpret_cast<const char*>(&word),
                   std::min<size_t>(4, bytes - i));
    }
    return text;
  }
  std::string random_content(size_t bytes, unsigned seed) {
    std::mt19937 random(seed);
    return noise(random, bytes);
  }

  // qemu-img reads from `file` what `content` is.
  void expect_content(const std::string& file, const std::string& format, const std::string& content) {
    const std::string raw = make_file("expected.raw", content);
    expect_success("qemu-img compare -f raw -F " + format + " " + raw + " " + file);
  }
  // The chain from `file` on holds `content`, as we read it.
  void expect_ours(const std::string& file, const std::string& format, const std::string& content) {
    NodePtr node = open(file, format, false);
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(node->size(), content.size());
    EXPECT_EQ(read(*node, 0, content.size()) == content, true) << file;
    close(node);
  }
  static std::string part_of(const std::string& file, uint64_t offset, size_t bytes) {
    std::string part(bytes, '\0');
    std::ifstream stream(file, std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(offset));
    stream.read(part.data(), static_cast<std::streamsize>(bytes));
    return part;
  }
  void patch(const std::string& file, uint64_t offset, const std::string& bytes) {
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream << bytes;
  }
  template <class T>
  void patch_le(const std::string& file, uint64_t offset, T value) {
    patch(file, offset, std::string(reinterpret_cast<const char*>(&value), sizeof value));
  }
  CheckReport check(const std::string& file, const std::string& format) {
    NodePtr node = open(file, format, false);
    if (!node || node->checker() == nullptr) {
      ADD_FAILURE() << "not to be checked";
      return {};
    }
    auto report = context.run_until(node->checker()->check({}));
    EXPECT_TRUE(report) << (report ? "" : report.error().message());
    close(node);
    return report ? *report : CheckReport{};
  }
  // Opening fails with a message that has all of `words` in it.
  void expect_refused(const std::string& file, const std::string& format, std::vector<std::string> words) {
    const std::string message = open_error(file, format);
    EXPECT_NE(message, "") << file << " was opened";
    for (const std::string& word : words) EXPECT_NE(message.find(word), std::string::npos) << message;
  }
};

}  // namespace ostler::block::test
