#include "img/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "block/io_context.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

Progress::Progress(Form form, std::string verb, uint64_t total, std::FILE* to)
    : form_(form), verb_(std::move(verb)), total_(total), to_(to), begin_(block::IoContext::now()) {
  if (form_ == Form::kPercent) fmt::print(to_, "    (0.00/100%)\r");
}

Progress::~Progress() {
  if (form_ == Form::kPercent) std::fputc('\n', to_);
  // A line is shown only for what took long enough to be read.
  if (form_ == Form::kLine && shown_ != 0) {
    if (!ended_) show(true);
    std::fputc('\n', to_);
  }
  std::fflush(to_);
}

void Progress::advance(uint64_t bytes) {
  done_ += bytes;
  if (form_ == Form::kNone) return;
  if (form_ == Form::kPercent) {
    const double percent =
        total_ == 0 ? 100 : std::min(100.0, 100 * static_cast<double>(done_) / static_cast<double>(total_));
    if (percent < shown_percent_ + 1 && percent < 100) return;
    shown_percent_ = percent;
    fmt::print(to_, "    ({:.2f}/100%)\r", percent);
    std::fflush(to_);
    return;
  }
  const uint64_t now = block::IoContext::now();
  if (now - std::max(begin_, shown_) < kSecond / 10) return;
  shown_ = now;
  show(false);
}

void Progress::finish() {
  if (ended_) return;
  done_ = std::max(done_, total_);
  if (form_ == Form::kPercent) fmt::print(to_, "    (100.00/100%)\r");
  if (form_ == Form::kLine && shown_ != 0) show(true);
  ended_ = true;
}

void Progress::show(bool last) {
  const double seconds = static_cast<double>(block::IoContext::now() - begin_) / kSecond;
  const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0;
  const uint64_t done = std::min(done_, total_), left = total_ - done;
  const auto percent =
      total_ == 0 ? 100u
                  : static_cast<unsigned>(100 * static_cast<double>(done) / static_cast<double>(total_));
  std::string time;
  if (last)
    time = fmt::format("in {}", duration_text(static_cast<uint64_t>(std::llround(seconds))));
  else if (rate > 0)
    time = fmt::format("{} left",
                       duration_text(static_cast<uint64_t>(std::llround(static_cast<double>(left) / rate))));
  // The rest of a longer line before is erased.
  fmt::print(to_, "\r{}: {} of {} ({}%), {}/s, {}\x1b[K", verb_, size_text(done), size_text(total_), percent,
             size_text(static_cast<uint64_t>(rate)), time);
  std::fflush(to_);
}

}  // namespace ostler::img
