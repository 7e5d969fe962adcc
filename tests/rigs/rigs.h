// A rig is one device on a workbench with everything it needs, ready to be driven by numbers from a generator
// or a fuzzer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "bus/io_handler.h"
#include "state/archive.h"
#include "unit/devices/chipset/bench.h"

namespace ostler::rigs {

class Rig {
 public:
  struct Range {
    bus::IoHandler* handler;
    uint64_t size;
  };
  virtual ~Rig() = default;
  virtual state::Savable& device() = 0;
  virtual std::vector<Range> ranges() = 0;
  virtual void stimulate(uint32_t) {}  // inputs other than registers: wires, back ends, MSRs
  virtual void check() {}              // what must hold whatever the guest does

  std::vector<std::byte> save() {
    state::Saver saver;
    device().state(saver);
    return saver.take();
  }
  bool load(std::span<const std::byte> stream) {
    state::Loader loader(stream);
    device().state(loader);
    return loader.finish().has_value();
  }

  // One step that four random numbers choose: mostly a register access, sometimes another input or time.
  void step(uint32_t what, uint32_t where, uint64_t value);

  chipset::Bench bench;  // destroyed after the device: derived classes hold it
};

struct Kind {
  std::string name;
  std::function<std::unique_ptr<Rig>()> make;
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

std::vector<Kind> chipset_kinds();
std::vector<Kind> ide_kinds();
std::vector<Kind> virtio_kinds();

// Every device there is.
std::vector<Kind> all_kinds();
// By name; null if there is none.
std::unique_ptr<Rig> make(std::string_view name);

}  // namespace ostler::rigs
