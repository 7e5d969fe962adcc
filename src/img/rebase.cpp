// rebase: another backing file for an image. Safe mode copies into the image what the two backing files have
// differently, so that it reads as before; -u changes only the name.
#include <algorithm>
#include <cstring>

#include "block/driver.h"
#include "img/commands.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {
    kObject,    kImageOptions,        kForceShare,         kFormat, kQuiet, kPercent, kCache, kSourceCache,
    {"u", 'u'}, {"b", 'b', "", true}, {"F", 'F', "", true}};
constexpr uint64_t kPiece = 2 << 20, kStatusStep = uint64_t{1} << 30, kLeastUnit = 4096;

// A backing chain, or nothing, which reads as zeros.
block::Task<int> read_or_zero(block::NodePtr node, uint64_t offset, std::byte* to, uint64_t bytes) {
  uint64_t inside = 0;
  if (node && offset < node->size()) inside = std::min(bytes, node->size() - offset);
  std::memset(to + inside, 0, bytes - inside);
  if (inside == 0) co_return 0;
  co_return co_await block::read_bytes(*node, offset, to, inside);
}

class Rebase {
 public:
  Rebase(block::Client& image, block::NodePtr before, block::NodePtr after, Progress& progress)
      : image_(image), before_(std::move(before)), after_(std::move(after)), progress_(progress) {
    const uint64_t cluster = image.node()->limits().cluster_bytes;
    unit_ = std::clamp(cluster, kLeastUnit, kPiece);
  }
  uint64_t offset() const { return at_; }

  // A cluster whose content differs is written whole: the image decides it from then on.
  block::Task<int> run() {
    const uint64_t size = image_.node()->size();
    while (at_ < size) {
      block::BlockStatus status;
      int error = co_await image_.node()->block_status(at_, std::min(size - at_, kStatusStep),
                                                       block::StatusDetail::kQuick, status);
      if (error != 0) co_return error;
      if (status.bytes == 0) co_return -EIO;
      if (!status.allocated) {
        error = co_await fill(at_, status.bytes);
        if (error != 0) co_return error;
      }
      at_ += status.bytes;
      progress_.advance(status.bytes);
    }
    co_return 0;
  }

 private:
  // Both chains have nothing there.
  block::Task<int> both_zero(uint64_t offset, uint64_t& bytes, bool& zero) {
    zero = true;
    for (unsigned i = 0; i < 2 && zero; ++i) {
      block::NodePtr node = i == 0 ? before_ : after_;
      if (!node || offset >= node->size()) continue;
      block::ChainStatus status;
      const int error = co_await block::chain_status(std::move(node), nullptr, offset, bytes,
                                                     block::StatusDetail::kPrecise, status);
      if (error != 0) co_return error;
      bytes = std::min(bytes, status.bytes);
      zero = status.zero;
    }
    co_return 0;
  }
  block::Task<int> fill(uint64_t begin, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t offset = begin + done;
      uint64_t piece = std::min(bytes - done, kStatusStep);
      bool zero = false;
      int error = co_await both_zero(offset, piece, zero);
      if (error != 0) co_return error;
      if (!zero) {
        piece = std::min(bytes - done, kPiece);
        error = co_await read_or_zero(before_, offset, old_.data(), piece);
        if (error == 0) error = co_await read_or_zero(after_, offset, new_.data(), piece);
        if (error == 0) error = co_await write_differences(offset, piece);
        if (error != 0) co_return error;
      }
      done += piece;
    }
    co_return 0;
  }
  block::Task<int> write_differences(uint64_t offset, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes;) {
      bool same = false;
      uint64_t end = at;
      while (end < bytes) {
        const uint64_t next = std::min(bytes, (offset + end) / unit_ * unit_ + unit_ - offset);
        const bool unit_same = std::memcmp(old_.data() + end, new_.data() + end, next - end) == 0;
        if (end == at)
          same = unit_same;
        else if (unit_same != same)
          break;
        end = next;
      }
      if (!same) {
        int error = 0;
        if (block::all_zeroes(old_.data() + at, end - at)) {
          error = co_await image_.write_zeroes(offset + at, end - at, {.may_unmap = true});
        } else {
          const iovec piece = {old_.data() + at, end - at};
          error = co_await image_.write(offset + at, block::Buffers(&piece, 1));
        }
        if (error != 0) co_return error;
      }
      at = end;
    }
    co_return 0;
  }

  block::Client& image_;
  const block::NodePtr before_, after_;
  Progress& progress_;
  uint64_t unit_ = kLeastUnit, at_ = 0;
  block::AlignedBuffer old_ = block::AlignedBuffer(kPiece), new_ = block::AlignedBuffer(kPiece);
};

}  // namespace

Result<int> rebase(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  const bool unsafe = given.has("u");
  if (!given.has("b") && !unsafe)
    return Error(ErrorKind::kInvalidArgument, "-b is missing: the new backing file, or -b \"\" for none");
  TRY_ASSIGN(const std::string name, one_operand(given, "the name of an image"));
  TRY_ASSIGN(auto request, image_request(given, name, true));
  request.flags.force_share = false;  // -U is for the backing files, which are only read
  request.flags.no_backing = true;
  TRY_ASSIGN(Image image, Image::open(tool, request));
  const std::string file = image.node()->filename(), base = given.value("b");
  std::string format = given.value("F");
  if (!format.empty()) TRY(block::need_driver(format));
  if (base.empty()) format.clear();
  if (!base.empty() && format.empty() && (unsafe || !tool.style.for_people))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-F is missing: the format of the new backing file {}", base));
  if (!unsafe) {
    block::OpenFlags reading;
    auto cache = block::set_cache_mode(reading, given.value("T", "writeback"));
    if (!cache) return std::move(cache).error().with_context("-T");
    reading.force_share = given.has("force-share");
    block::NodePtr before, after;
    const std::string old_base = image.node()->backing_file_name();
    if (!old_base.empty()) {
      TRY_ASSIGN(before, tool.run(tool.opener.open_backing(file, old_base,
                                                           image.node()->backing_file_format(), reading, 0)));
    }
    if (!base.empty()) {
      TRY_ASSIGN(after, tool.run(tool.opener.open_backing(file, base, format, reading, 0)));
      if (format.empty()) format = after->driver();
    }
    // What is written lies on the new backing file: zeros must hide it, the rest of a cluster is filled from
    // it.
    if (after) {
      auto attached = image.node()->set_backing(after);
      if (!attached) {
        for (block::NodePtr* node : {&before, &after})
          if (*node) TRY(tool.run(block::close_chain(std::move(*node))));
        return std::move(attached).error().with_context(name);
      }
    }
    Progress progress(tool.progress_form(), "rebase", image.size());
    int error = 0;
    uint64_t offset = 0;
    {
      Rebase work(image.client(), before, after, progress);
      error = tool.run(work.run());
      offset = work.offset();
    }
    if (error == 0) progress.finish();
    // The new one belongs to the image now and is closed with it.
    after = nullptr;
    if (before) TRY(tool.run(block::close_chain(std::move(before))));
    if (error != 0) return errno_error(fmt::format("{}: at offset {}", name, offset), -error);
    // The content must be there before it stops being read from the old backing file.
    const int flushed = tool.run(image.client().flush());
    if (flushed != 0) return errno_error(name + ": its content cannot be made durable", -flushed);
  }
  auto changed = tool.run(image.node()->change_backing_file(base, format));
  if (!changed) return std::move(changed).error().with_context(name);
  TRY(image.close());
  return 0;
}

}  // namespace ostler::img
