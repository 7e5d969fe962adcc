#include "block/qcow2/snapshot_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace ostler::block::qcow2 {
namespace {

constexpr size_t kFixed = 40;
constexpr size_t kKnownExtra = 24;
constexpr size_t kMostExtra = 1024;
constexpr size_t kMostName = 65535;

}  // namespace

size_t snapshot_entry_bytes(std::span<const std::byte> bytes) {
  const size_t id = load_be<uint16_t>(&bytes[12]), name = load_be<uint16_t>(&bytes[14]);
  const size_t extra = load_be<uint32_t>(&bytes[36]);
  return (kFixed + extra + id + name + 7) & ~size_t{7};
}

Result<std::vector<Stored>> parse_snapshots(std::span<const std::byte> bytes, uint32_t count,
                                            uint64_t disk_bytes, const std::string& name) {
  std::vector<Stored> result;
  size_t at = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const Error bad(ErrorKind::kCorrupt,
                    fmt::format("{}: entry {} of the snapshot table is not valid", name, i), EINVAL);
    if (at > bytes.size() || bytes.size() - at < kFixed) return bad;
    const auto entry = bytes.subspan(at);
    const size_t id = load_be<uint16_t>(&entry[12]), title = load_be<uint16_t>(&entry[14]);
    const size_t extra = load_be<uint32_t>(&entry[36]);
    if (extra > kMostExtra || entry.size() < kFixed + extra + id + title) return bad;
    Stored stored;
    stored.l1_offset = load_be<uint64_t>(&entry[0]);
    stored.l1_entries = load_be<uint32_t>(&entry[8]);
    stored.info.date_seconds = load_be<uint32_t>(&entry[16]);
    stored.info.date_nanoseconds = load_be<uint32_t>(&entry[20]);
    stored.info.vm_clock_nanoseconds = load_be<uint64_t>(&entry[24]);
    stored.info.vm_state_bytes = load_be<uint32_t>(&entry[32]);
    stored.info.disk_bytes = disk_bytes;
    if (extra >= 8) stored.info.vm_state_bytes = load_be<uint64_t>(&entry[kFixed]);
    if (extra >= 16) stored.info.disk_bytes = load_be<uint64_t>(&entry[kFixed + 8]);
    if (extra >= 24) stored.info.icount = load_be<uint64_t>(&entry[kFixed + 16]);
    if (extra > kKnownExtra)
      stored.more_extra.assign(entry.begin() + kFixed + kKnownExtra,
                               entry.begin() + static_cast<ptrdiff_t>(kFixed + extra));
    const char* const text = reinterpret_cast<const char*>(&entry[0]) + kFixed + extra;
    stored.info.id.assign(text, id);
    stored.info.name.assign(text + id, title);
    result.push_back(std::move(stored));
    at += (kFixed + extra + id + title + 7) & ~size_t{7};
  }
  return result;
}

std::vector<std::byte> serialize_snapshots(const std::vector<Stored>& snapshots) {
  std::vector<std::byte> out;
  for (const Stored& each : snapshots) {
    const size_t at = out.size();
    const size_t id = std::min(each.info.id.size(), kMostName),
                 title = std::min(each.info.name.size(), kMostName);
    const size_t extra = kKnownExtra + each.more_extra.size();
    out.resize((at + kFixed + extra + id + title + 7) & ~size_t{7});
    std::byte* const entry = &out[at];
    store_be<uint64_t>(entry, each.l1_offset);
    store_be<uint32_t>(entry + 8, each.l1_entries);
    store_be<uint16_t>(entry + 12, static_cast<uint16_t>(id));
    store_be<uint16_t>(entry + 14, static_cast<uint16_t>(title));
    store_be<uint32_t>(entry + 16, static_cast<uint32_t>(each.info.date_seconds));
    store_be<uint32_t>(entry + 20, each.info.date_nanoseconds);
    store_be<uint64_t>(entry + 24, each.info.vm_clock_nanoseconds);
    store_be<uint32_t>(entry + 32, each.info.vm_state_bytes > 0xffffffff
                                       ? 0
                                       : static_cast<uint32_t>(each.info.vm_state_bytes));
    store_be<uint32_t>(entry + 36, static_cast<uint32_t>(extra));
    store_be<uint64_t>(entry + kFixed, each.info.vm_state_bytes);
    store_be<uint64_t>(entry + kFixed + 8, each.info.disk_bytes);
    store_be<uint64_t>(entry + kFixed + 16, each.info.icount);
    std::ranges::copy(each.more_extra, entry + kFixed + kKnownExtra);
    std::ranges::copy(std::as_bytes(std::span(each.info.id).first(id)), entry + kFixed + extra);
    std::ranges::copy(std::as_bytes(std::span(each.info.name).first(title)), entry + kFixed + extra + id);
  }
  return out;
}

}  // namespace ostler::block::qcow2
