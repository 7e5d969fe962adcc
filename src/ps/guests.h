// The guests that run on this host, as the host's own accounts tell: nothing is asked of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ostler::ps {

struct Guest {
  int pid = 0;
  std::string name;  // -name; empty: none
  unsigned vcpus = 0;
  uint64_t cpu_seconds = 0;  // of the host's processors, since it started
  // Bytes. Guest memory that lies in a file of the user's is not counted in the first two.
  uint64_t memory = 0;          // of the guest
  uint64_t guest_resident = 0;  // of that, taken from the host
  uint64_t overhead = 0;        // resident beside it
  std::optional<uint64_t>
      merged;  // by KSM, with other pages of the same content; none: the kernel does not tell
};

// Those whose accounts this user may read, by pid. `proc`: "/proc".
std::vector<Guest> list_guests(const std::string& proc);

std::string as_text(const std::vector<Guest>& guests);
std::string as_json(const std::vector<Guest>& guests);

}  // namespace ostler::ps
