// -object filter-dump: frames that pass go into a capture file (pcap 2.4, draft-ietf-opsawg-pcap), as
// Wireshark and tcpdump read it. Frames with offloads are kept as they are: longer than the wire's, checksums
// not filled in.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "net/filter.h"
#include "net/filter_options.h"

namespace ostler::net {

// A capture file being written. Any thread.
class PcapFile {
 public:
  // Makes or empties `path`; of each frame the first `max_length` bytes are kept.
  static Result<PcapFile> create(const std::string& path, uint32_t max_length);
  PcapFile(PcapFile&&) noexcept;
  // With the present time. When the disk is full, one warning tells of it and the file ends there.
  void write(std::span<const std::byte> frame);

 private:
  PcapFile(std::string path, Fd fd, uint32_t max_length);
  std::string path_;
  uint32_t max_length_;
  std::mutex mutex_;  // guards what follows
  Fd fd_;             // closed after a failure
  uint64_t size_ = 0;
};

class DumpFilter final : public Filter {
 public:
  DumpFilter(Backend& inner, PcapFile file, FilterDirection direction)
      : Filter(inner), file_(std::move(file)), direction_(direction) {}
  ~DumpFilter() override { attach(nullptr); }

  bool send(const Frame& frame, unsigned queue) override;

 private:
  bool receive(const Frame& frame, unsigned queue) override;

  PcapFile file_;
  const FilterDirection direction_;
};

}  // namespace ostler::net
