// Findings as text for people and as JSON for programs.
#pragma once

#include <span>
#include <string>

#include "doctor/finding.h"

namespace ostler::doctor {

std::string as_text(std::span<const Section> sections);
// {"version": 1, "findings": [{"id", "section", "state": "good" | "limited" | "missing" | "unknown", "says",
// "cure"?, figures…}]}, one line.
std::string as_json(std::span<const Section> sections);

}  // namespace ostler::doctor
