// Signals that translated code causes: divide errors, unmasked SIMD and x87 exceptions, misaligned vector
// operands, a full shadow stack.
#pragma once

namespace ostler::bt {

class Runner;

// The runner whose code this thread executes. Installs the handlers and the thread's signal stack when first
// called.
void set_current_runner(Runner* runner);

}  // namespace ostler::bt
