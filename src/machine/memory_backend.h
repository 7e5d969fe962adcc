// -object memory-backend-ram, -memfd and -file.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "config/machine.h"
#include "machine/properties.h"
#include "memory/host_memory.h"

namespace ostler::machine {

struct MemoryBackend {
  memory::RamOptions options;
  unsigned prealloc_threads = 0;  // 0: memory is taken as the guest touches it

  static bool is_type(const std::string& type) { return type.starts_with("memory-backend-"); }
  // Errors and warnings begin with the option.
  static Result<MemoryBackend> parse(const config::Object& object, const MachineProperties& properties,
                                     std::vector<std::string>& warnings);
};

// As many threads as take memory fastest here.
unsigned usual_prealloc_threads();

}  // namespace ostler::machine
