// The log of a VHDX file: what a program that was interrupted has not brought to its place, done again.
// Source: "VHDX Format Specification" 1.00, §2.3. We write tables in an order that needs no log ourselves.
#pragma once

#include "block/formats/vhdx/vhdx_header.h"

namespace ostler::block {

// Finds the active sequence of entries and writes what it holds; flushed. The caller marks the log empty.
Task<Result<void>> replay_vhdx_log(Node& file, VhdxHeader header);

}  // namespace ostler::block
