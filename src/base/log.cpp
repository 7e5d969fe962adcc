#include "base/log.h"

#include <array>
#include <cstdio>
#include <ctime>
#include <memory>
#include <mutex>
#include <vector>

#include "base/suggest.h"

namespace ostler::log {
namespace {

struct Name {
  std::string_view name;
  Subject subject;
  std::string_view text;
};

constexpr std::array kNames = {
    Name{"guest_errors", Subject::kGuestErrors, "the guest broke a rule of its hardware"},
    Name{"unimp", Subject::kUnimplemented, "the guest used something not modelled"},
    Name{"int", Subject::kInterrupts, "interrupts and exceptions"},
    Name{"in_asm", Subject::kInAsm, "guest code when first decoded"},
    Name{"out_asm", Subject::kOutAsm, "what guest code is translated to"},
    Name{"mmu", Subject::kMmu, "page faults, TLB flushes"},
    Name{"stats", Subject::kStats, "counters at the end of the run"},
    Name{"devices", Subject::kDevices, "device state changes"},
    Name{"exec", Subject::kExec, "each entry into translated code; linked blocks enter each other unseen"},
    Name{"kvm", Subject::kKvm, "the calls of the host's KVM, by name"},
    Name{"cpu_reset", Subject::kCpuReset, "vCPU state at reset"},
};

constexpr unsigned kLinesPerSecond = 10;

std::mutex output_mutex;
std::FILE* output = stderr;
std::array<std::time_t, 32> limit_second{};
std::array<unsigned, 32> limit_count{};

void write_locked(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), output);
  std::fputc('\n', output);
  std::fflush(output);
}

}  // namespace

Result<void> enable(std::string_view names) {
  while (!names.empty()) {
    const size_t comma = names.find(',');
    const std::string_view one = names.substr(0, comma);
    names = comma == std::string_view::npos ? std::string_view{} : names.substr(comma + 1);
    bool found = false;
    for (const Name& known : kNames) {
      if (known.name != one) continue;
      enabled_subjects.fetch_or(static_cast<uint32_t>(known.subject), std::memory_order_relaxed);
      found = true;
    }
    if (!found) {
      std::string list;
      std::vector<std::string_view> all;
      for (const Name& known : kNames) {
        list += (list.empty() ? "" : ", ") + std::string(known.name);
        all.push_back(known.name);
      }
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-d: unknown subject '{}'; known are {}{}", one, list, suggestion(one, all)));
    }
  }
  return {};
}

std::string help() {
  std::string text;
  for (const Name& known : kNames) text += fmt::format("{:<14} {}\n", known.name, known.text);
  return text;
}

Result<void> open_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return errno_error(fmt::format("-D: cannot open '{}' for writing", path), errno);
  const std::lock_guard lock(output_mutex);
  if (output != stderr) std::fclose(output);
  output = file;
  return {};
}

void write(std::string_view line) {
  const std::lock_guard lock(output_mutex);
  write_locked(line);
}

void warning(std::string_view line) {
  const std::lock_guard lock(output_mutex);
  std::fprintf(stderr, "ostler: warning: %.*s\n", static_cast<int>(line.size()), line.data());
}

void write_limited(Subject subject, std::string_view line) {
  const auto index = static_cast<size_t>(__builtin_ctz(static_cast<uint32_t>(subject)));
  const std::time_t now = std::time(nullptr);
  const std::lock_guard lock(output_mutex);
  if (limit_second[index] != now) {
    if (limit_count[index] > kLinesPerSecond)
      write_locked(
          fmt::format("({} more lines of this kind left out)", limit_count[index] - kLinesPerSecond));
    limit_second[index] = now;
    limit_count[index] = 0;
  }
  if (++limit_count[index] <= kLinesPerSecond) write_locked(line);
}

}  // namespace ostler::log
