#include "doctor/report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace ostler::doctor {
namespace {

constexpr int kVersion = 1;

std::string_view mark(State state) {
  switch (state) {
    case State::kGood:
      return "ok";
    case State::kLimited:
      return "limited";
    case State::kMissing:
      return "missing";
    default:
      return "unknown";
  }
}

}  // namespace

std::string as_text(std::span<const Section> sections) {
  std::string out;
  for (const Section& section : sections) {
    out += fmt::format("{}{}\n", out.empty() ? "" : "\n", section.title);
    for (const Finding& finding : section.findings) {
      out += fmt::format("  {:<8} {:<23} {}\n", mark(finding.state), finding.id, finding.says);
      if (!finding.cure.empty()) out += fmt::format("  {:<8} {:<23} -> {}\n", "", "", finding.cure);
    }
  }
  return out;
}

std::string as_json(std::span<const Section> sections) {
  nlohmann::json findings = nlohmann::json::array();
  for (const Section& section : sections)
    for (const Finding& finding : section.findings) {
      nlohmann::json one;
      for (const auto& [name, value] : finding.figures) one[name] = nlohmann::json::parse(value);
      one["id"] = finding.id;
      one["section"] = section.title;
      one["state"] = finding.state == State::kGood ? "good" : mark(finding.state);
      one["says"] = finding.says;
      if (!finding.cure.empty()) one["cure"] = finding.cure;
      findings.push_back(std::move(one));
    }
  nlohmann::json report;
  report["version"] = kVersion;
  report["findings"] = std::move(findings);
  return report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace ostler::doctor
