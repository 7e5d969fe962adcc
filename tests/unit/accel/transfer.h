// Moves a vCPU's whole state between engines of one Rig, in the form in which a machine saves it, and tells
// two states apart.
#pragma once

#include <string>
#include <vector>

#include "accel/engine.h"

namespace ostler::accel {

// As a snapshot takes it from one engine and gives it to another.
void transfer(Engine& from, Engine& to);

// One line for each field of the saved form: "rip=1002".
std::vector<std::string> fields_of(Engine& engine);
// The lines that differ, "a: rip=1002, b: rip=1004"; empty: none do. The TSC's offset is the host's affair.
std::string differences(const std::vector<std::string>& a, const std::vector<std::string>& b);

}  // namespace ostler::accel
