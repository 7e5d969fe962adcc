#include "devices/virtio/block/request.h"

namespace ostler::virtio::block {

bool Request::parse(memory::Dma& dma, const Limits& limits) {
  RequestHeader header;
  if (!chain.read_object(dma, 0, header) || chain.writable_bytes() == 0) return false;
  status = check(dma, header, limits);
  return true;
}

Status Request::check(memory::Dma& dma, const RequestHeader& header, const Limits& limits) {
  type = static_cast<RequestType>(header.type);
  const uint64_t out_bytes = chain.readable_bytes() - sizeof header;
  const uint64_t in_bytes = chain.writable_bytes() - 1;  // the last byte is the status
  switch (type) {
    case RequestType::kIn:
    case RequestType::kOut: {
      const bool write = type == RequestType::kOut;
      data_bytes = write ? out_bytes : in_bytes;
      if (write && limits.read_only) return Status::kIoError;  // §5.2.6.2
      if (data_bytes % kSector != 0) return Status::kIoError;
      if (header.sector > limits.bytes / kSector || data_bytes > limits.bytes - header.sector * kSector)
        return Status::kIoError;
      offset = header.sector * kSector;
      const bool mapped = write ? chain.map_readable(dma, sizeof header, data_bytes, mapping)
                                : chain.map_writable(dma, 0, data_bytes, mapping);
      return mapped ? Status::kOk : Status::kIoError;
    }
    case RequestType::kFlush:
      return Status::kOk;
    case RequestType::kGetId:
      return in_bytes >= kIdBytes ? Status::kOk : Status::kIoError;
    case RequestType::kDiscard:
    case RequestType::kWriteZeroes: {
      const bool discard = type == RequestType::kDiscard;
      if (discard ? !limits.discard : !limits.write_zeroes) return Status::kUnsupported;
      if (limits.read_only) return Status::kIoError;
      const uint64_t count = out_bytes / sizeof(RangeSegment);
      if (out_bytes % sizeof(RangeSegment) != 0 || count == 0 || count > kMaxRangeSegments)
        return Status::kIoError;
      ranges.resize(count);
      if (!chain.read(dma, sizeof header, std::as_writable_bytes(std::span(ranges)))) return Status::kIoError;
      for (const RangeSegment& range : ranges) {
        // §5.2.6.2: reserved flags, and unmap on a discard, are unsupported.
        if ((range.flags & (discard ? ~0u : ~kRangeUnmap)) != 0) return Status::kUnsupported;
        if (range.sectors > kMaxRangeSectors) return Status::kIoError;
        const uint64_t sectors = limits.bytes / kSector;
        if (range.sector > sectors || range.sectors > sectors - range.sector) return Status::kIoError;
      }
      return Status::kOk;
    }
  }
  return Status::kUnsupported;
}

}  // namespace ostler::virtio::block
