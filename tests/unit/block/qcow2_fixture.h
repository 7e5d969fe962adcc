// qcow2 images beside qemu-img, and a disk in memory that tells what they must hold.
#pragma once

#include <sys/wait.h>

#include <nlohmann/json.hpp>
#include <random>

#include "block/capabilities.h"
#include "block_fixture.h"

namespace ostler::block::test {

// The exit status; what it printed in `output`.
inline int run_command(const std::string& command, std::string* output = nullptr) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return -1;
  std::string text;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) != 0;) text.append(buffer, got);
  const int status = pclose(pipe);
  if (output != nullptr) *output = text;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Success, or where two contents differ first.
inline testing::AssertionResult same(const std::string& now, const std::string& wanted) {
  if (now == wanted) return testing::AssertionSuccess();
  size_t at = 0;
  while (at < now.size() && at < wanted.size() && now[at] == wanted[at]) ++at;
  auto result = testing::AssertionFailure()
                << "sizes " << now.size() << ", " << wanted.size() << "; byte " << at;
  if (at < now.size() && at < wanted.size())
    result << " is " << static_cast<int>(now[at]) << " and not " << static_cast<int>(wanted[at]);
  return result;
}

class Qcow2Test : public BlockTest {
 protected:
  void qemu_img(const std::string& arguments) {
    std::string output;
    ASSERT_EQ(run_command("cd " + folder + " && qemu-img " + arguments, &output), 0) << arguments << "\n"
                                                                                     << output;
  }
  void expect_check_clean(const std::string& name) {
    std::string output;
    EXPECT_EQ(run_command("qemu-img check -f qcow2 " + path(name), &output), 0) << output;
  }
  void expect_content(const std::string& name, const std::string& model,
                      const std::string& format = "qcow2") {
    const std::string raw = make_file(name + ".model", model);
    std::string output;
    EXPECT_EQ(run_command("qemu-img compare -f " + format + " -F raw " + path(name) + " " + raw, &output), 0)
        << output;
  }
  void create(const std::string& name, nlohmann::json options) {
    OpenFlags flags;
    flags.no_flush = true;
    const auto made = context.run_until(opener.create(path(name), "qcow2", std::move(options), flags));
    ASSERT_TRUE(made) << made.error().message();
  }
  CheckReport check(Node& node, CheckOptions options = {}) {
    auto report = context.run_until(node.checker()->check(options));
    EXPECT_TRUE(report) << (report ? "" : report.error().message());
    if (!report) return CheckReport{};
    for (const std::string& message : report->messages) ADD_FAILURE() << message;
    return *report;
  }
};

// Random requests to an image and to a string.
struct Workload {
  explicit Workload(unsigned seed, size_t size) : random(seed), model(size, '\0') {}

  // Changes the model and gives the same request for the image.
  struct Request {
    enum Kind { kWrite, kZero, kDiscard } kind;
    uint64_t offset, bytes;
    std::string data;
    bool may_unmap;
  };
  Request next() {
    Request request{};
    const auto what = random() % 10;
    request.kind = what < 7 ? Request::kWrite : what < 9 ? Request::kZero : Request::kDiscard;
    const uint64_t sectors = model.size() / 512;
    const uint64_t first = random() % sectors;
    const uint64_t longest = random() % 4 == 0 ? 512 : 24;
    request.offset = first * 512;
    request.bytes = std::min<uint64_t>(1 + random() % longest, sectors - first) * 512;
    request.may_unmap = random() % 2 == 0;
    if (request.kind == Request::kWrite) {
      request.data.resize(request.bytes);
      const char fill = static_cast<char>(1 + random() % 255);
      for (size_t i = 0; i < request.data.size(); ++i) request.data[i] = static_cast<char>(fill + i / 512);
    }
    return request;
  }
  std::mt19937 random;
  std::string model;
};

}  // namespace ostler::block::test
