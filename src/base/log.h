// Log lines by subject (-d subject,…), off by default; warnings always. Any thread.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ostler::log {

enum class Subject : uint32_t {
  kGuestErrors = 1u << 0,  // the guest broke a rule of its hardware
  kUnimplemented = 1u << 1,
  kInterrupts = 1u << 2,
  kInAsm = 1u << 3,
  kMmu = 1u << 4,
  kStats = 1u << 5,
  kDevices = 1u << 6,
  kExec = 1u << 7,
  kCpuReset = 1u << 8,
  kOutAsm = 1u << 9,
  kKvm = 1u << 10,
};

inline std::atomic<uint32_t> enabled_subjects{0};

inline bool enabled(Subject subject) {
  return (enabled_subjects.load(std::memory_order_relaxed) & static_cast<uint32_t>(subject)) != 0;
}

// "guest_errors,int,…": as -d spells them. Unknown names are an error that lists the known ones.
Result<void> enable(std::string_view names);
// Names and one-line explanations, for -d help.
std::string help();
// Sends log lines to `path` instead of standard error (-D).
Result<void> open_file(const std::string& path);

void write(std::string_view line);
void warning(std::string_view line);  // "ostler: warning: line", to standard error

// At most 10 lines a second for each subject reach the log, so that a guest cannot fill the host's disk.
void write_limited(Subject subject, std::string_view line);

template <class... Args>
void guest_error(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Subject::kGuestErrors)) [[unlikely]]
    write_limited(Subject::kGuestErrors, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void trace(Subject subject, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(subject)) [[unlikely]]
    write(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace ostler::log
