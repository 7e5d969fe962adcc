// shrink: gives space of an image back to the host, in place: clusters that hold only zeros, and parts of raw
// files. What the image reads as does not change.
#include <algorithm>

#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject, kImageOptions, kFormat, kQuiet, kPercent};
constexpr uint64_t kPiece = 2 << 20, kStatusStep = uint64_t{1} << 30, kLeastUnit = 4096;

class Shrink {
 public:
  Shrink(block::Client& client, Progress& progress) : client_(client), progress_(progress) {
    unit_ = std::clamp(client.node()->limits().cluster_bytes, kLeastUnit, kPiece);
  }
  uint64_t offset() const { return at_; }

  block::Task<int> run() {
    const uint64_t size = client_.node()->size();
    while (at_ < size) {
      block::BlockStatus status;
      int error = co_await client_.node()->block_status(at_, std::min(size - at_, kStatusStep),
                                                        block::StatusDetail::kPrecise, status);
      if (error != 0) co_return error;
      if (status.bytes == 0) co_return -EIO;
      uint64_t bytes = status.bytes;
      if (status.allocated && status.zero && status.offset_valid && status.data) {
        error = co_await give_back(at_, bytes);
      } else if (status.data && !status.compressed) {
        bytes = std::min(bytes, kPiece);
        error = co_await look_at(at_, bytes);
      }
      if (error != 0) co_return error;
      at_ += bytes;
      progress_.advance(bytes);
    }
    co_return 0;
  }

 private:
  block::Task<int> give_back(uint64_t offset, uint64_t bytes) {
    const int error =
        co_await client_.node()->write_zeroes(offset, bytes, {.may_unmap = true, .no_fallback = true});
    co_return error == -ENOTSUP ? 0 : error;
  }
  block::Task<int> look_at(uint64_t offset, uint64_t bytes) {
    const iovec piece = {buffer_.data(), bytes};
    int error = co_await client_.read(offset, block::Buffers(&piece, 1));
    uint64_t run = 0;  // bytes of zero units before `at`
    for (uint64_t at = 0; at < bytes && error == 0;) {
      const uint64_t next = std::min(bytes, (offset + at) / unit_ * unit_ + unit_ - offset);
      const bool zero = block::all_zeroes(buffer_.data() + at, next - at);
      if (zero) run += next - at;
      if (run != 0 && (!zero || next == bytes)) {
        const uint64_t end = zero ? next : at;
        error = co_await give_back(offset + end - run, run);
        run = 0;
      }
      at = next;
    }
    co_return error;
  }

  block::Client& client_;
  Progress& progress_;
  uint64_t unit_ = kLeastUnit, at_ = 0;
  block::AlignedBuffer buffer_ = block::AlignedBuffer(kPiece);
};

}  // namespace

Result<int> shrink(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const std::string name, one_operand(given, "the name of an image"));
  TRY_ASSIGN(const auto request, image_request(given, name, true));
  TRY_ASSIGN(Image image, Image::open(tool, request));
  const int64_t before = image.node()->allocated_bytes();
  {
    Progress progress(tool.progress_form(), "shrink", image.size());
    Shrink work(image.client(), progress);
    const int error = tool.run(work.run());
    if (error != 0) return errno_error(fmt::format("{}: at offset {}", name, work.offset()), -error);
    progress.finish();
  }
  const int flushed = tool.run(image.client().flush());
  if (flushed != 0) return errno_error(name + ": the change cannot be made durable", -flushed);
  // A qcow2 image's file loses its unused end when it is closed after this.
  if (image.node()->driver() == "qcow2")
    TRY(tool.run(image.node()->truncate(image.size(), block::Preallocation::kOff)));
  TRY(image.close());
  TRY_ASSIGN(const Image again,
             Image::open(tool, {.name = name, .format = request.format, .is_options = request.is_options}));
  const int64_t after = again.node()->allocated_bytes();
  if (before >= 0 && after >= 0)
    tool.say(fmt::format("{}: {} given back; it takes {} now.\n", name,
                         size_text(static_cast<uint64_t>(std::max<int64_t>(before - after, 0))),
                         size_text(static_cast<uint64_t>(after))));
  return 0;
}

}  // namespace ostler::img
