// Copies the content of images into another one: several requests in flight, holes and zeros left out.
//
// Pieces are taken from the source in their order and worked on side by side. Writing begins in that order
// too (a new image's clusters lie as its content does) but does not wait for earlier writing to end. Memory:
// one buffer of 1 MiB (compressing: at least a cluster) for each piece in flight.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/client.h"
#include "block/io_context.h"
#include "img/progress.h"

namespace ostler::img {

struct CopySource {
  block::Client* client = nullptr;
  uint64_t start = 0;             // bytes of it that are skipped
  uint64_t bytes = 0;             // that are copied
  block::NodePtr base = nullptr;  // with keep_backed: what this image and those below it have is not copied
};

struct CopySettings {
  unsigned parallel = 8;
  bool in_order = true;
  bool compress = false;
  // Runs of zeros at least this long are not written as data; 0: data is written as it is.
  uint64_t sparse_bytes = 4096;
  bool everything = false;      // zeros and holes are written as data
  bool target_is_zero = false;  // zeros need not be written
  bool keep_backed = false;     // what no image above `base` has is left out
  bool salvage = false;         // sectors that cannot be read become zeros
  uint64_t bytes_per_second = 0;
};

class Copy {
 public:
  Copy(std::vector<CopySource> sources, block::Client& target, CopySettings settings, Progress& progress);
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  // Once. The error names the image and the offset.
  block::Task<Result<void>> run();
  uint64_t unreadable_bytes() const { return unreadable_; }

 private:
  enum class Kind { kData, kZero, kBacked };
  struct Piece {
    uint64_t offset = 0, bytes = 0;  // no bytes: the end
    Kind kind = Kind::kData;
    uint64_t ticket = 0;
  };
  struct Place {
    const CopySource* source;
    uint64_t offset, bytes;  // in the source, and left of it
  };

  Place place_of(uint64_t offset) const;
  block::Task<int> work();
  block::Task<int> next(Piece& piece);
  block::Task<int> status_at(uint64_t offset, Kind& kind, uint64_t& bytes);
  block::Task<int> process(Piece piece, std::byte* buffer);
  block::Task<int> read(uint64_t offset, std::byte* to, uint64_t bytes);
  block::Task<int> read_sectors(Place place, std::byte* to, uint64_t bytes);
  block::Task<int> write(Piece piece, const std::byte* from);
  block::Task<int> write_run(uint64_t offset, const std::byte* from, uint64_t bytes, bool zero);
  block::Task<void> wait_for_turn(uint64_t ticket);
  void pass_turn();
  int failed(std::string_view what, const block::Node& node, uint64_t offset, int error);

  const std::vector<CopySource> sources_;
  block::Client& target_;
  const CopySettings settings_;
  Progress& progress_;
  uint64_t total_ = 0;
  uint64_t buffer_;  // bytes of a piece at most
  uint64_t unit_;    // bytes that are written or left out as one

  block::Mutex scanning_;  // of the following four
  uint64_t position_ = 0;
  uint64_t tickets_ = 0;
  Kind run_kind_ = Kind::kData;
  uint64_t run_end_ = 0;
  uint64_t begin_time_ = 0, limited_bytes_ = 0;

  std::mutex mutex_;  // of the following
  block::WaitQueue turns_;
  uint64_t turn_ = 0;
  bool stopped_ = false;
  std::string problem_;
  uint64_t unreadable_ = 0;
};

}  // namespace ostler::img
