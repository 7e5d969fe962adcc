#include "img/info_text.h"

#include <fmt/format.h>

#include <ctime>

#include "block/open.h"
#include "img/text.h"

namespace ostler::img {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kNanoseconds = 1'000'000'000;

// qcow2's and what is told of encryption in the order in which qemu-img tells them; others by name.
ordered_json values_in_order(const nlohmann::json& values) {
  static constexpr const char* kFirst[] = {"compat",          "compression-type",
                                           "lazy-refcounts",  "bitmaps",
                                           "refcount-bits",   "encrypt",
                                           "data-file",       "data-file-raw",
                                           "corrupt",         "extended-l2",
                                           "ivgen-alg",       "hash-alg",
                                           "cipher-alg",      "uuid",
                                           "format",          "cipher-mode",
                                           "slots",           "payload-offset",
                                           "master-key-iters"};
  ordered_json data = ordered_json::object();
  for (const char* const key : kFirst)
    if (values.contains(key)) data[key] = values[key];
  for (const auto& [key, value] : values.items())
    if (!data.contains(key)) data[key] = value;
  if (data.contains("encrypt")) data["encrypt"] = values_in_order(values["encrypt"]);
  return data;
}

ordered_json in_order(const nlohmann::json& specific) {
  ordered_json result;
  result["type"] = specific["type"];
  result["data"] = values_in_order(specific["data"]);
  return result;
}

ordered_json snapshot_json(const block::SnapshotInfo& snapshot) {
  ordered_json object;
  if (snapshot.icount != ~uint64_t{0}) object["icount"] = snapshot.icount;
  object["vm-clock-nsec"] = snapshot.vm_clock_nanoseconds % kNanoseconds;
  object["name"] = snapshot.name;
  object["date-sec"] = snapshot.date_seconds;
  object["date-nsec"] = snapshot.date_nanoseconds;
  object["vm-clock-sec"] = snapshot.vm_clock_nanoseconds / kNanoseconds;
  object["id"] = snapshot.id;
  object["vm-state-size"] = snapshot.vm_state_bytes;
  return object;
}

std::string scalar_text(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// Objects and lists of objects, one deeper level of indentation each.
void describe(std::string& text, const ordered_json& value, unsigned depth) {
  size_t index = 0;
  for (const auto& [key, item] : value.items()) {
    std::string name = key;
    for (char& c : name)
      if (c == '-') c = ' ';
    if (value.is_array()) name = fmt::format("[{}]", index++);
    text += std::string(size_t{4} * depth, ' ') + name + ":";
    if (item.is_structured()) {
      text += "\n";
      describe(text, item, depth + 1);
    } else {
      text += " " + scalar_text(item) + "\n";
    }
  }
}

}  // namespace

ordered_json image_description(const block::Node& node, const std::string& filename) {
  ordered_json object;
  auto* snapshots = const_cast<block::Node&>(node).snapshots();  // only listed
  if (snapshots != nullptr) {
    const auto list = snapshots->list();
    for (const auto& each : list) object["snapshots"].push_back(snapshot_json(each));
  }
  const std::string format = node.backing_file_format(), backing = node.backing_file_name();
  if (!backing.empty() && !format.empty()) object["backing-filename-format"] = format;
  object["virtual-size"] = (node.size() + 511) / 512 * 512;
  object["filename"] = filename;
  if (const uint64_t cluster = node.limits().cluster_bytes; cluster != 0) object["cluster-size"] = cluster;
  object["format"] = node.driver();
  if (const int64_t bytes = node.allocated_bytes(); bytes >= 0) object["actual-size"] = bytes;
  if (node.encrypted()) object["encrypted"] = true;
  if (const auto specific = node.format_specific_info(); !specific.is_null())
    object["format-specific"] = in_order(specific);
  if (!backing.empty()) {
    object["full-backing-filename"] = block::backing_path(filename, backing);
    object["backing-filename"] = backing;
  }
  object["dirty-flag"] = node.dirty();
  return object;
}

std::string description_text(const ordered_json& description) {
  std::string text = fmt::format(
      "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
      description["filename"].get<std::string>(), description["format"].get<std::string>(),
      size_text(description["virtual-size"].get<uint64_t>()), description["virtual-size"].get<uint64_t>(),
      description.contains("actual-size") ? size_text(description["actual-size"].get<uint64_t>())
                                          : "unavailable");
  if (description.contains("encrypted")) text += "encrypted: yes\n";
  if (description.contains("cluster-size"))
    text += fmt::format("cluster_size: {}\n", description["cluster-size"].get<uint64_t>());
  if (description["dirty-flag"].get<bool>()) text += "cleanly shut down: no\n";
  if (description.contains("backing-filename")) {
    const auto backing = description["backing-filename"].get<std::string>(),
               full = description["full-backing-filename"].get<std::string>();
    text += "backing file: " + backing + (full == backing ? "" : " (actual path: " + full + ")") + "\n";
    if (description.contains("backing-filename-format"))
      text += "backing file format: " + description["backing-filename-format"].get<std::string>() + "\n";
  }
  if (description.contains("snapshots")) {
    std::vector<block::SnapshotInfo> snapshots;
    for (const auto& each : description["snapshots"])
      snapshots.push_back({.id = each["id"],
                           .name = each["name"],
                           .vm_state_bytes = each["vm-state-size"],
                           .date_seconds = each["date-sec"],
                           .date_nanoseconds = each["date-nsec"],
                           .vm_clock_nanoseconds = each["vm-clock-sec"].get<uint64_t>() * kNanoseconds +
                                                   each["vm-clock-nsec"].get<uint64_t>(),
                           .icount = each.value("icount", ~uint64_t{0})});
    text += snapshot_table(snapshots);
  }
  if (description.contains("format-specific")) {
    std::string details;
    describe(details, description["format-specific"]["data"], 1);
    if (!details.empty()) text += "Format specific information:\n" + details;
  }
  return text;
}

std::string snapshot_table(std::span<const block::SnapshotInfo> snapshots) {
  std::string text = "Snapshot list:\n";
  text += fmt::format("{:<10}{:<16}{:>9}{:>20}{:>13}{:>11}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK",
                      "ICOUNT");
  for (const auto& each : snapshots) {
    const auto seconds = static_cast<time_t>(each.date_seconds);
    tm date = {};
    localtime_r(&seconds, &date);
    char date_text[64];
    if (strftime(date_text, sizeof date_text, "%Y-%m-%d %H:%M:%S", &date) == 0) date_text[0] = 0;
    const uint64_t clock = each.vm_clock_nanoseconds / kNanoseconds;
    const std::string clock_text = fmt::format("{:02}:{:02}:{:02}.{:03}", clock / 3600, clock / 60 % 60,
                                               clock % 60, each.vm_clock_nanoseconds / 1'000'000 % 1000);
    text += fmt::format("{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n", each.id, each.name,
                        size_text(each.vm_state_bytes), date_text, clock_text,
                        each.icount == ~uint64_t{0} ? std::string() : std::to_string(each.icount));
  }
  return text;
}

}  // namespace ostler::img
