#include "block/file/cures.h"

namespace ostler::block {
namespace {

Cures of_this_program;

}  // namespace

const Cures& cures() {
  return of_this_program;
}

void set_cures(const Cures& cures) {
  of_this_program = cures;
}

}  // namespace ostler::block
