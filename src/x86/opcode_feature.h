// Which CPUID flag an instruction needs, so that an engine raises #UD for what its CPU model does not offer.
#pragma once

#include "x86/feature.h"
#include "x86/instruction.h"

namespace ostler::x86 {

inline constexpr Feature kNoFeature = Feature::kCount;

// The CPUID flag without which `insn` is #UD; kNoFeature for what every x86-64 processor has. Instructions of
// class kAvx (vector_info.h) need kAvx besides. Two do not fault when their flag is missing but execute as
// another: TZCNT (kBmi1) as BSF, LZCNT (kAbm) as BSR.
Feature opcode_feature(const Instruction& insn);

}  // namespace ostler::x86
