// compare: whether two images hold the same. Exit status: 0 identical, 1 different (or the command line is
// wrong), 2 an image cannot be opened, 3 its tables cannot be read, 4 its content cannot be read.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "img/commands.h"
#include "img/unlocked.h"

namespace ostler::img {
namespace {

using block::ChainStatus;

constexpr OptionName kOptions[] = {kObject, kImageOptions, kForceShare,          kFormat,   kSourceCache,
                                   kQuiet,  kPercent,      {"F", 'F', "", true}, {"s", 's'}};

constexpr uint64_t kPiece = 2 << 20, kStatusStep = uint64_t{1} << 30, kSector = 512;
constexpr uint64_t kTablePiece = 65536;
constexpr int kDifferent = 1, kNotOpened = 2, kStatusFailed = 3, kReadFailed = 4;

// The first sector of two memories that differs; `size` if none does.
uint64_t first_difference(const std::byte* a, const std::byte* b, uint64_t size) {
  if (std::memcmp(a, b, size) == 0) return size;
  for (uint64_t at = 0;; at += kSector)
    if (std::memcmp(a + at, b + at, std::min(kSector, size - at)) != 0) return at;
}

// qemu-img asks these formats about no more at a time: one cluster, or what a piece of a qcow2 image's tables
// covers. 0: no limit.
uint64_t bytes_of_an_answer(const block::Node& node) {
  const uint64_t cluster = node.limits().cluster_bytes;
  if (node.driver() == "vdi" || node.driver() == "vmdk") return cluster;
  if (node.driver() != "qcow2") return 0;
  const nlohmann::json info = node.format_specific_info();
  const bool extended = info.contains("data") && info["data"].value("extended-l2", false);
  return cluster * (std::min(cluster, kTablePiece) / (extended ? 16 : 8));
}

class Comparison {
 public:
  Comparison(Tool& tool, const Image& a, const Image& b)
      : tool_(tool), images_{&a, &b}, form_(tool.progress_form()) {
    progress_.emplace(form_, "compare", std::max(a.size(), b.size()));
    for (unsigned i = 0; i < 2; ++i)
      for (block::NodePtr node = block::skip_filters(images_[i]->node()); node;
           node = block::next_in_chain(node))
        units_[i].emplace_back(node.get(), bytes_of_an_answer(*node));
  }

  // All of both was looked at.
  void finish() {
    if (progress_) progress_->finish();
  }
  void say(const std::string& result) {
    end_line();
    tool_.say(result);
  }

  // 0: the same up to `end`.
  block::Task<int> common(uint64_t end, bool strict) {
    for (uint64_t at = 0; at < end;) {
      ChainStatus status[2];
      const uint64_t most = strict ? end - at : std::min(end - at, kStatusStep);
      const auto detail = strict ? block::StatusDetail::kLayout : block::StatusDetail::kPrecise;
      uint64_t bytes = most;
      for (unsigned i = 0; i < 2; ++i) {
        const int error = co_await status_at(i, at, most, detail, status[i]);
        if (error != 0) co_return error;
        if (strict) status[i].bytes = reach(i, at, status[i]);
        bytes = std::min(bytes, status[i].bytes);
      }
      if (strict && !alike(status[0], status[1], most)) {
        say(fmt::format("Strict mode: Offset {} block status mismatch!\n", at));
        co_return kDifferent;
      }
      if (!reads_zero(status[0]) || !reads_zero(status[1])) {
        const bool both = !reads_zero(status[0]) && !reads_zero(status[1]);
        int result = 0;
        if (both)
          result = co_await contents(at, bytes);
        else
          result = co_await zeroes(reads_zero(status[0]), at, bytes);
        if (result != 0) co_return result;
      }
      at += bytes;
      advance(bytes);
    }
    co_return 0;
  }
  // Image `i` from `at` on, to its end, must read as zeros.
  block::Task<int> rest_is_zero(unsigned i, uint64_t at) {
    while (at < images_[i]->size()) {
      ChainStatus status;
      const uint64_t most = std::min(images_[i]->size() - at, kStatusStep);
      int result = co_await status_at(i, at, most, block::StatusDetail::kPrecise, status);
      if (result == 0 && !reads_zero(status)) result = co_await zeroes(i == 1, at, status.bytes);
      if (result != 0) co_return result;
      at += status.bytes;
      advance(status.bytes);
    }
    co_return 0;
  }

 private:
  void advance(uint64_t bytes) {
    if (progress_) progress_->advance(bytes);
  }
  // A result has a line of its own on a terminal: the one that renews itself ends before.
  void end_line() {
    if (form_ == Progress::Form::kLine) progress_.reset();
  }
  // How far the answer about an image reaches.
  uint64_t reach(unsigned i, uint64_t at, const ChainStatus& status) const {
    uint64_t bytes = status.bytes;
    for (const auto& [node, unit] : units_[i]) {
      if (unit != 0) bytes = std::min(bytes, unit - at % unit);
      if (node == status.node) break;
    }
    return bytes;
  }
  // Stored in the same way: -s. As qemu-img has it, that they reach the end of both or of none counts too;
  // `rest`: bytes to it.
  static bool alike(const ChainStatus& a, const ChainStatus& b, uint64_t rest) {
    return a.data == b.data && a.zero == b.zero && a.allocated == b.allocated &&
           a.compressed == b.compressed && a.offset_valid == b.offset_valid &&
           (a.bytes == rest) == (b.bytes == rest);
  }
  static bool reads_zero(const ChainStatus& status) { return status.zero; }

  block::Task<int> status_at(unsigned i, uint64_t at, uint64_t bytes, block::StatusDetail detail,
                             ChainStatus& status) {
    const int error = co_await block::chain_status(images_[i]->node(), nullptr, at, bytes, detail, status);
    if (error == 0) co_return 0;
    failed(i, at, error);
    co_return kStatusFailed;
  }
  block::Task<int> read(unsigned i, uint64_t at, uint64_t bytes) {
    const iovec piece = {buffers_[i].data(), bytes};
    const int error = co_await images_[i]->client().read(at, block::Buffers(&piece, 1));
    if (error == 0) co_return 0;
    failed(i, at, error);
    co_return kReadFailed;
  }
  block::Task<int> contents(uint64_t at, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t piece = std::min(bytes - done, kPiece);
      block::TaskGroup both(2);
      static_cast<void>(co_await both.start(read(0, at + done, piece)));
      static_cast<void>(co_await both.start(read(1, at + done, piece)));
      const int error = co_await both.wait();
      if (error != 0) co_return error;
      const uint64_t same = first_difference(buffers_[0].data(), buffers_[1].data(), piece);
      if (same != piece) co_return differ(at + done + same);
      done += piece;
    }
    co_return 0;
  }
  block::Task<int> zeroes(bool second, uint64_t at, uint64_t bytes) {
    const unsigned i = second ? 1 : 0;
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t piece = std::min(bytes - done, kPiece);
      const int error = co_await read(i, at + done, piece);
      if (error != 0) co_return error;
      for (uint64_t sector = 0; sector < piece; sector += kSector)
        if (!block::all_zeroes(buffers_[i].data() + sector, std::min(kSector, piece - sector)))
          co_return differ(at + done + sector);
      done += piece;
    }
    co_return 0;
  }
  int differ(uint64_t at) {
    say(fmt::format("Content mismatch at offset {}!\n", at));
    return kDifferent;
  }
  void failed(unsigned i, uint64_t at, int error) {
    end_line();
    tool_.complain(
        fmt::format("{}: at offset {}: {}", images_[i]->node()->filename(), at, std::strerror(-error)));
  }

  Tool& tool_;
  const Image* images_[2];
  std::vector<std::pair<const block::Node*, uint64_t>>
      units_[2];  // the chains, each with its bytes_of_an_answer()
  const Progress::Form form_;
  std::optional<Progress> progress_;
  block::AlignedBuffer buffers_[2] = {block::AlignedBuffer(kPiece), block::AlignedBuffer(kPiece)};
};

Result<int> compare_images(Tool& tool, const Arguments& arguments) {
  TRY_ASSIGN(const auto request_a, image_request(arguments, arguments.operands[0], false, "T"));
  TRY_ASSIGN(auto request_b, image_request(arguments, arguments.operands[1], false, "T"));
  request_b.format = arguments.value("F");
  TRY_ASSIGN(const Image a, Image::open(tool, request_a));
  TRY_ASSIGN(const Image b, Image::open(tool, request_b));
  TRY(check_unlocked(tool, a));
  TRY(check_unlocked(tool, b));
  const uint64_t size_a = a.size(), size_b = b.size(), both = std::min(size_a, size_b);
  const bool strict = arguments.has("s");
  if (strict && size_a != size_b) {
    tool.say("Strict mode: Image size mismatch!\n");
    return kDifferent;
  }
  Comparison comparison(tool, a, b);
  if (const int result = tool.run(comparison.common(both, strict)); result != 0) return result;
  if (size_a != size_b) {
    comparison.say("Warning: Image size mismatch!\n");
    const int result = tool.run(comparison.rest_is_zero(size_a > size_b ? 0 : 1, both));
    if (result != 0) return result;
  }
  comparison.finish();
  comparison.say("Images are identical.\n");
  return 0;
}

}  // namespace

Result<int> compare(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  if (arguments.operands.size() != 2)
    return Error(ErrorKind::kInvalidArgument, "two operands are needed, the names of the images to compare");
  auto status = compare_images(tool, arguments);
  if (status) return status;
  tool.complain(status.error().message());
  return kNotOpened;
}

}  // namespace ostler::img
