#include "machine/paravirt.h"

namespace ostler::machine {
namespace {

class NoParavirt final : public accel::Paravirt {
 public:
  std::optional<uint64_t> read_msr(uint32_t) override { return std::nullopt; }
  bool write_msr(uint32_t, uint64_t) override { return false; }
  uint64_t hypercall(uint64_t, const uint64_t (&)[4]) override { return static_cast<uint64_t>(-1000); }
};

}  // namespace

const uint32_t kParavirtFeatures = 0;

std::unique_ptr<accel::Paravirt> make_paravirt(memory::AddressSpace&, event::VirtualClock&,
                                               chipset::TscClock&) {
  return std::make_unique<NoParavirt>();
}

}  // namespace ostler::machine
