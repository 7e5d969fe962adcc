#include <array>
#include <atomic>
#include <iterator>

#include "interp/families.h"
#include "x86/cpu_model.h"
#include "x86/exception.h"
#include "x86/feature.h"
#include "x86/opcode_feature.h"
#include "x86/vector_info.h"

namespace ostler::interp {

using x86::Feature;
using x86::Opcode;

namespace {

const Op* raise_ud(Cpu&, const Op*) {
  x86::raise(x86::Vector::kUd);
}

bool offered(const x86::Instruction& insn, const x86::CpuModel& model) {
  const Feature feature = x86::opcode_feature(insn);
  if (feature != x86::kNoFeature && !model.has(feature)) return false;
  if (insn.encoding == x86::Encoding::kLegacy) return true;
  return x86::vector_info(insn).vector_class != x86::VectorClass::kAvx || model.has(Feature::kAvx);
}

}  // namespace

Handler bind_integer(const x86::Instruction& insn, const BindContext& context) {
  using Binder = Handler (*)(const x86::Instruction&, const BindContext&);
  static constexpr Binder kFamilies[] = {bind_move_family, bind_alu_family,      bind_shift_family,
                                         bind_bit_family,  bind_multiply_family, bind_atomic_family,
                                         bind_flag_family, bind_port_family,     bind_decimal_family};
  // The family that knew the opcode last time, plus one: families do not share opcodes. Decoding is a fifth
  // of the time of code that runs once, so it is not searched for again. Any vCPU's thread may write the same
  // value.
  static std::array<std::atomic<uint8_t>, static_cast<size_t>(Opcode::kCount)> known_family{};
  std::atomic<uint8_t>& known = known_family[static_cast<size_t>(insn.opcode)];
  if (const uint8_t number = known.load(std::memory_order_relaxed); number != 0)
    return kFamilies[number - 1](insn, context);
  for (size_t i = 0; i < std::size(kFamilies); ++i) {
    if (const Handler handler = kFamilies[i](insn, context)) {
      known.store(static_cast<uint8_t>(i + 1), std::memory_order_relaxed);
      return handler;
    }
  }
  return nullptr;
}

Handler bind(const x86::Instruction& insn, const x86::CpuModel& model, const BindContext& context,
             uint32_t& data) {
  if (insn.encoding == x86::Encoding::kVex && !context.vex) return raise_ud;
  if (!offered(insn, model)) {
    // Processors without these two take the prefix for a meaningless one.
    if (insn.opcode != Opcode::kTzcnt && insn.opcode != Opcode::kLzcnt) return raise_ud;
    x86::Instruction older = insn;
    older.opcode = insn.opcode == Opcode::kTzcnt ? Opcode::kBsf : Opcode::kBsr;
    return bind_integer(older, context);
  }
  if (const Handler handler = bind_integer(insn, context)) return handler;
  if (const Handler handler = bind_control(insn, context)) return handler;
  if (const Handler handler = bind_stack(insn, context)) return handler;
  if (const Handler handler = bind_string(insn, context)) return handler;
  if (const Handler handler = bind_system(insn, context)) return handler;
  if (const Handler handler = bind_vector(insn, context, data)) return handler;
  return raise_ud;
}

}  // namespace ostler::interp
