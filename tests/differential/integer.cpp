// Integer, stack, near control and string instructions against the host CPU: all registers, all flags,
// memory, faults.
#include "integer_cases.h"

int main(int argc, char** argv) {
  using namespace ostler::differential;
  const Options options = parse_options(argc, argv, {.seed = 1, .cases = 200'000});
  return run_campaign(integer_family(), options) == 0 ? 0 : 1;
}
