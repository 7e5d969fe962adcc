// -drive: the keys of the drive itself; what is left describes its node.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

using nlohmann::json;

// Keys that are looked for before the rest goes to the node, for "did you mean".
constexpr std::string_view kKeys[] = {
    "file",           "if",           "id",    "index",  "bus",     "unit",      "media",    "format",
    "snapshot",       "cache",        "aio",   "serial", "werror",  "rerror",    "discard",  "detect-zeroes",
    "auto-read-only", "copy-on-read", "group", "driver", "locking", "read-only", "readonly", "node-name",
    "backing"};

// The short names of limits, by the long ones.
struct Limit {
  std::string_view name;
  std::string_view old_name;
};
constexpr Limit kLimits[] = {
    {"iops-total", "iops"}, {"iops-read", "iops_rd"}, {"iops-write", "iops_wr"},
    {"bps-total", "bps"},   {"bps-read", "bps_rd"},   {"bps-write", "bps_wr"},
};

// Of one key in two spellings the value; both is an error.
Result<std::optional<uint64_t>> take_limit(KeyValues& keys, const std::string& name, const std::string& old) {
  TRY_ASSIGN(auto value, keys.take_size("throttling." + name, 1));
  TRY_ASSIGN(const auto other, keys.take_size(old, 1));
  if (value && other) return keys.error(old, fmt::format("means the same as throttling.{}; give one", name));
  return value ? value : other;
}

Result<void> take_throttling(KeyValues& keys, Drive& drive) {
  json limits = json::object();
  for (const Limit& limit : kLimits) {
    const std::string name(limit.name), old(limit.old_name);
    // "iops", "iops_max", "iops_max_length"; "iops_rd", "iops_rd_max", …
    for (const auto& [suffix, old_suffix] :
         {std::pair{"", ""}, std::pair{"-max", "_max"}, std::pair{"-max-length", "_max_length"}}) {
      TRY_ASSIGN(const auto value, take_limit(keys, name + suffix, old + old_suffix));
      if (value) limits[name + suffix] = *value;
    }
  }
  TRY_ASSIGN(const auto size, take_limit(keys, "iops-size", "iops_size"));
  if (size) limits["iops-size"] = *size;
  const auto group = keys.take("throttling.group");
  const auto old_group = keys.take("group");
  drive.throttle_group = group ? *group : old_group.value_or("");
  if (!limits.empty()) drive.limits = limits.dump();
  return {};
}

Result<void> take_cache(KeyValues& keys, Drive& drive, json& options) {
  bool direct = false, no_flush = false;
  if (const auto mode = keys.take("cache")) {
    static constexpr std::string_view kModes[] = {"none",   "off",          "writeback",
                                                  "unsafe", "writethrough", "directsync"};
    if (std::find(std::begin(kModes), std::end(kModes), *mode) == std::end(kModes))
      return keys.error("cache", fmt::format("'{}' is not one of {}{}", *mode, fmt::join(kModes, ", "),
                                             suggestion(*mode, kModes)));
    direct = *mode == "none" || *mode == "off" || *mode == "directsync";
    no_flush = *mode == "unsafe";
    drive.writethrough = *mode == "writethrough" || *mode == "directsync";
  }
  TRY_ASSIGN(const auto writeback, keys.take_bool("cache.writeback"));
  if (writeback) drive.writethrough = !*writeback;
  TRY_ASSIGN(const auto own_direct, keys.take_bool("cache.direct"));
  TRY_ASSIGN(const auto own_no_flush, keys.take_bool("cache.no-flush"));
  direct = own_direct.value_or(direct);
  if (direct) options["cache.direct"] = "on";
  if (own_no_flush.value_or(no_flush)) options["cache.no-flush"] = "on";

  if (const auto aio = keys.take("aio")) {
    static constexpr std::string_view kKinds[] = {"threads", "native", "io_uring"};
    if (std::find(std::begin(kKinds), std::end(kKinds), *aio) == std::end(kKinds))
      return keys.error("aio", fmt::format("'{}' is not one of {}{}", *aio, fmt::join(kKinds, ", "),
                                           suggestion(*aio, kKinds)));
    if (*aio == "native" && !direct)
      return keys.error("aio", "'native' goes with cache=none or cache=directsync only; or say io_uring");
    drive.aio = *aio;
  }
  return {};
}

Result<void> take_error_actions(KeyValues& keys, Drive& drive) {
  for (const auto& [key, place, full] :
       {std::tuple{"werror", &drive.write_error, true}, std::tuple{"rerror", &drive.read_error, false}}) {
    std::vector<std::string_view> actions = {"report", "ignore", "stop"};
    if (full) actions.push_back("enospc");
    const auto value = keys.take(key);
    if (!value) continue;
    if (std::find(actions.begin(), actions.end(), *value) == actions.end())
      return keys.error(key, fmt::format("'{}' is not one of {}{}", *value, fmt::join(actions, ", "),
                                         suggestion(*value, actions)));
    *place = *value;
  }
  return {};
}

Result<void> take_flags(KeyValues& keys, Drive& drive) {
  TRY_ASSIGN(const auto read_only, keys.take_bool("read-only"));
  TRY_ASSIGN(const auto old_read_only, keys.take_bool("readonly"));
  drive.read_only = read_only.value_or(old_read_only.value_or(drive.cdrom));
  TRY_ASSIGN(const auto snapshot, keys.take_bool("snapshot"));
  drive.snapshot = snapshot.value_or(false);
  TRY_ASSIGN(const auto copy_on_read, keys.take_bool("copy-on-read"));
  drive.copy_on_read = copy_on_read.value_or(false);
  return {};
}

// Of a bus with several disks. On a SCSI bus each unit is a target.
Result<void> take_place(KeyValues& keys, bool scsi, std::optional<unsigned>& place) {
  const unsigned most = scsi ? 255 : 3;
  TRY_ASSIGN(const auto index, keys.take_number("index"));
  TRY_ASSIGN(const auto unit, keys.take_number("unit"));
  TRY_ASSIGN(const auto bus, keys.take_number("bus"));
  if (index && (unit || bus)) return keys.error("index", "goes without bus and unit, which say the same");
  for (const auto& [key, value] : {std::pair{"index", index}, std::pair{"bus", bus}, std::pair{"unit", unit}})
    if (value && *value > (scsi && key == std::string_view("bus") ? 0 : most))
      return keys.error(key, fmt::format("{} is too large", *value));
  if (index)
    place = static_cast<unsigned>(*index);
  else if (bus || unit)
    place = static_cast<unsigned>(2 * bus.value_or(0) + unit.value_or(0));
  return {};
}

}  // namespace

Result<void> option_drive(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-drive", value, "file"));
  QemuBuilder::PendingDrive pending;
  Drive& drive = pending.drive;
  drive.origin = keys.origin();
  drive.file = keys.take("file").value_or("");
  pending.interface = keys.take("if").value_or("");
  TRY_ASSIGN(const std::string media, keys.take_choice("media", {"disk", "cdrom"}));
  drive.cdrom = media == "cdrom";
  drive.id = keys.take("id").value_or("");
  TRY(take_place(keys, pending.interface == "scsi", pending.index));
  if (auto serial = keys.take("serial")) pending.device_properties.push_back({"serial", *serial});

  json options = json::object();
  if (const auto format = keys.take("format")) options["driver"] = *format;
  TRY(take_flags(keys, drive));
  TRY(take_cache(keys, drive, options));
  TRY(take_throttling(keys, drive));
  TRY(take_error_actions(keys, drive));
  TRY_ASSIGN(const auto automatic, keys.take_bool("auto-read-only"));
  if (automatic) options["auto-read-only"] = *automatic ? "on" : "off";
  // The rest is the node's: discard, detect-zeroes, node-name, file.locking, backing.file.filename, …
  for (auto& [key, text] : keys.take_rest()) {
    const bool known = std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
    if (const std::string near = known ? std::string() : suggestion(key, kKeys); !near.empty())
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: it has no setting '{}'{}", drive.origin, key, near));
    options[key] = std::move(text);
  }
  drive.options = options.dump(-1, ' ', false, json::error_handler_t::replace);

  static constexpr std::string_view kInterfaces[] = {"", "ide", "scsi", "virtio", "none"};
  if (std::find(std::begin(kInterfaces), std::end(kInterfaces), pending.interface) == std::end(kInterfaces))
    return keys.error("if",
                      fmt::format("'{}' has no controller in this version; say if=virtio, if=scsi or if=ide",
                                  pending.interface));
  const bool has_node = !drive.file.empty() || options.contains("driver") ||
                        options.contains("file.driver") || options.contains("file.filename");
  if (!has_node && pending.interface == "none") drive.cdrom = drive.read_only = true;  // for a tray
  if (!has_node && !drive.cdrom) return keys.error("file", "is missing: the disk has no image");
  if (!has_node) drive.options = "{}";
  if (drive.id.empty()) drive.id = b.anonymous_id("drive");
  b.drives.push_back(std::move(pending));
  return {};
}

}  // namespace ostler::config
