// How far a long command is: a line that renews itself on a terminal, or percentages for programs.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace ostler::img {

class Progress {
 public:
  enum class Form {
    kNone,
    kLine,     // bytes, share, rate and time left, ten times a second at most
    kPercent,  // "    (12.00/100%)\r", each percent at most once
  };
  // `verb` begins the line; `total` in bytes.
  Progress(Form form, std::string verb, uint64_t total, std::FILE* to = stdout);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // the line ends, at 100 % or where it is

  void set_total(uint64_t bytes) { total_ = bytes; }
  void advance(uint64_t bytes);
  // All is done, whatever was counted.
  void finish();

 private:
  void show(bool last);
  const Form form_;
  const std::string verb_;
  uint64_t total_;
  std::FILE* const to_;
  uint64_t done_ = 0;
  uint64_t begin_ = 0, shown_ = 0;  // nanoseconds
  double shown_percent_ = 0;
  bool ended_ = false;
};

}  // namespace ostler::img
