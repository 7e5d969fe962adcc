#include "ps/guests.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

namespace ostler::ps {
namespace {

namespace fs = std::filesystem;

// What memory::HostMemory names its mappings and objects.
constexpr std::string_view kMemoryName = "ostler-ram-";

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  const char* first = text.data() + begin;
  const auto done = std::from_chars(first, text.data() + text.size(), value);
  if (done.ec != std::errc() || done.ptr == first) return std::nullopt;
  return value;
}

std::vector<std::string> words(const std::string& command_line) {
  std::vector<std::string> out;
  std::istringstream in(command_line);
  for (std::string word; std::getline(in, word, '\0');) out.push_back(word);
  return out;
}

// "-name guest=a,debug-threads=on", "--name a", "--name=a".
std::string name_of(const std::vector<std::string>& arguments) {
  std::string name;
  for (size_t i = 1; i < arguments.size(); ++i) {
    std::string_view word = arguments[i];
    if (word.starts_with("--")) word.remove_prefix(1);
    if (word == "-name" && i + 1 < arguments.size())
      name = arguments[i + 1];
    else if (word.starts_with("-name="))
      name = word.substr(6);
  }
  if (name.starts_with("guest=")) name = name.substr(6);
  return name.substr(0, name.find(','));
}

bool is_guest_program(const std::vector<std::string>& arguments, const std::string& comm) {
  if (!comm.starts_with("ostler") || arguments.empty()) return false;
  const std::string program = fs::path(arguments[0]).filename();
  return program.starts_with("ostler-system") || (arguments.size() > 1 && arguments[1] == "run");
}

unsigned count_vcpus(const fs::path& process) {
  std::error_code error;
  unsigned count = 0;
  for (const auto& task : fs::directory_iterator(process / "task", error))
    if (content(task.path() / "comm").starts_with("vcpu ")) ++count;
  return count;
}

// The 14th and 15th field of stat are ticks in user and kernel mode; the second may hold blanks.
uint64_t cpu_seconds(const fs::path& process) {
  const std::string stat = content(process / "stat");
  const size_t end = stat.rfind(')');
  if (end == std::string::npos) return 0;
  std::istringstream in(stat.substr(end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) in >> skipped;
  uint64_t user = 0, system = 0;
  in >> user >> system;
  const long ticks = sysconf(_SC_CLK_TCK);
  return ticks > 0 ? (user + system) / static_cast<uint64_t>(ticks) : 0;
}

// smaps: a line for each mapping, followed by "Size:   1024 kB" and the like, and "VmFlags: rd wr" at the
// end. Guest memory carries its name, or, where the kernel keeps no names, is what is both for huge pages
// (hg) and not for core dumps (dd).
void count_memory(const fs::path& process, Guest& guest) {
  std::ifstream in(process / "smaps");
  uint64_t resident = 0, size_here = 0, resident_here = 0;
  bool named = false;
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    const size_t blank = line.find(' ');
    if (colon == std::string::npos || blank < colon) {
      named = line.find(kMemoryName) != std::string::npos;
      size_here = resident_here = 0;
      continue;
    }
    const std::string_view key = std::string_view(line).substr(0, colon);
    if (key == "Size" || key == "Rss")
      (key == "Size" ? size_here : resident_here) =
          number(std::string_view(line).substr(colon + 1)).value_or(0) * 1024;
    if (key != "VmFlags") continue;
    resident += resident_here;
    const bool advised = line.find(" hg") != std::string::npos && line.find(" dd") != std::string::npos;
    if (!named && !advised) continue;
    guest.memory += size_here;
    guest.guest_resident += resident_here;
  }
  guest.overhead = resident - guest.guest_resident;
}

std::string size_text(uint64_t bytes) {
  constexpr uint64_t kGibibyte = 1u << 30, kMebibyte = 1u << 20;
  if (bytes >= 10 * kGibibyte) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / kGibibyte);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMebibyte);
}

}  // namespace

std::vector<Guest> list_guests(const std::string& proc) {
  std::vector<Guest> guests;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(proc, error)) {
    const std::string base = entry.path().filename();
    const auto pid = base.find_first_not_of("0123456789") == std::string::npos ? number(base) : std::nullopt;
    if (!pid) continue;
    const std::vector<std::string> arguments = words(content(entry.path() / "cmdline"));
    if (!is_guest_program(arguments, content(entry.path() / "comm"))) continue;
    Guest guest;
    guest.pid = static_cast<int>(*pid);
    guest.vcpus = count_vcpus(entry.path());
    if (guest.vcpus == 0) continue;  // it is starting, ending, or only prints its help
    guest.name = name_of(arguments);
    guest.cpu_seconds = cpu_seconds(entry.path());
    count_memory(entry.path(), guest);
    if (const auto pages = number(content(entry.path() / "ksm_merging_pages")))
      guest.merged = *pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    guests.push_back(std::move(guest));
  }
  std::sort(guests.begin(), guests.end(), [](const Guest& a, const Guest& b) { return a.pid < b.pid; });
  return guests;
}

std::string as_text(const std::vector<Guest>& guests) {
  if (guests.empty()) return "no guest runs here that you may look at\n";
  std::string out = fmt::format("{:>7}  {:<20}  {:>5}  {:>9}  {:>11}  {:>11}  {:>11}  {:>11}\n", "PID",
                                "NAME", "VCPUS", "CPU TIME", "MEMORY", "RESIDENT", "OVERHEAD", "MERGED");
  for (const Guest& guest : guests) {
    const uint64_t s = guest.cpu_seconds;
    out += fmt::format("{:>7}  {:<20}  {:>5}  {:>9}  {:>11}  {:>11}  {:>11}  {:>11}\n", guest.pid,
                       guest.name.empty() ? "-" : guest.name, guest.vcpus,
                       fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60), size_text(guest.memory),
                       size_text(guest.guest_resident), size_text(guest.overhead),
                       guest.merged ? size_text(*guest.merged) : "-");
  }
  return out;
}

std::string as_json(const std::vector<Guest>& guests) {
  nlohmann::json list = nlohmann::json::array();
  for (const Guest& guest : guests) {
    nlohmann::json one = {{"pid", guest.pid},          {"name", guest.name},
                          {"vcpus", guest.vcpus},      {"cpu-seconds", guest.cpu_seconds},
                          {"memory", guest.memory},    {"resident", guest.guest_resident},
                          {"overhead", guest.overhead}};
    if (guest.merged) one["merged"] = *guest.merged;
    list.push_back(std::move(one));
  }
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace ostler::ps
