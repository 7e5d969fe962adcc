// What `ostler doctor` finds out about the host: one finding for each thing that guests profit from.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace ostler::doctor {

enum class State {
  kGood,
  kLimited,  // works, but less well than it could
  kMissing,
  kUnknown,  // the place that tells cannot be seen from here
};

struct Finding {
  std::string id;  // as in --json; never changes its meaning
  State state = State::kGood;
  std::string says;  // one sentence without a full stop
  std::string cure;  // what to do about it; empty: nothing to do, or nothing that can be done
  // Figures for programs: name, value as JSON text.
  std::vector<std::pair<std::string, std::string>> figures{};
};

struct Section {
  std::string title;
  std::vector<Finding> findings;
};

}  // namespace ostler::doctor
