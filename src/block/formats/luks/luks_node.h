// The format "luks": LUKS1 volumes. Without "key-secret" an image can be opened for reading, to be
// described; its content is -EACCES then.
#pragma once

#include "block/driver.h"
#include "block/formats/luks/luks_crypto.h"
#include "block/formats/luks/luks_key.h"
#include "block/mutex.h"

namespace ostler::block {

class LuksNode final : public Node {
 public:
  static Task<Result<NodePtr>> open(OpenRequest request);
  LuksNode(bool read_only, LuksHeader header)
      : Node("luks"), read_only_(read_only), header_(std::move(header)) {}

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override { return file_->flush(); }
  // Zeros look like anything else.
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -ENOTSUP; }
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> amend(nlohmann::json options) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;

  uint64_t size() const override;
  bool read_only() const override { return read_only_; }
  Limits limits() const override { return {.request_alignment = 512}; }
  bool encrypted() const override { return true; }
  nlohmann::json format_specific_info() const override;
  std::vector<const Edge*> children() const override { return {&file_}; }

 private:
  Task<int> read_sectors(uint64_t offset, std::span<std::byte> to);

  const bool read_only_;
  LuksHeader header_;
  std::unique_ptr<LuksCipher> cipher_;
  const Opener* opener_ = nullptr;  // outlives the nodes that it opened
  Edge file_;
  Mutex unaligned_;  // parts of sectors are read, changed and written by one request at a time
};

}  // namespace ostler::block
