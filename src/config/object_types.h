// The types of -object. Each one's properties are read where it is made: machine/disk_objects.cpp,
// memory_backend.cpp, random_sources.cpp, networks.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace ostler::config {

enum class ObjectUse { kDisks, kMemory, kNetworks, kRandom };  // who names such objects

struct ObjectType {
  std::string_view name;
  ObjectUse use;
  std::string_view help;
  std::string_view page;  // that tells the properties; "" where `-object TYPE,help` does
};

inline constexpr std::array kObjectTypes{
    ObjectType{"filter-dump", ObjectUse::kNetworks, "a capture of a network", "docs/networks.md"},
    ObjectType{"filter-rate", ObjectUse::kNetworks, "a limit of a network", "docs/networks.md"},
    ObjectType{"iothread", ObjectUse::kDisks, "a thread for disks", "docs/disks.md"},
    ObjectType{"memory-backend-file", ObjectUse::kMemory,
               "guest memory in a file, or in huge pages of hugetlbfs", ""},
    ObjectType{"memory-backend-memfd", ObjectUse::kMemory, "guest memory that other processes can map", ""},
    ObjectType{"memory-backend-ram", ObjectUse::kMemory, "guest memory", ""},
    ObjectType{"rng-builtin", ObjectUse::kRandom, "random numbers of the host's kernel for virtio-rng",
               "docs/virtio.md"},
    ObjectType{"rng-random", ObjectUse::kRandom, "the same, by the name of its device file",
               "docs/virtio.md"},
    ObjectType{"secret", ObjectUse::kDisks, "a passphrase or key", "docs/block.md"},
    ObjectType{"throttle-group", ObjectUse::kDisks, "limits that disks share", "docs/disks.md"},
    ObjectType{"tls-creds-psk", ObjectUse::kDisks, "keys of NBD servers and clients", "docs/nbd.md"},
    ObjectType{"tls-creds-x509", ObjectUse::kDisks, "certificates of NBD servers and clients", "docs/nbd.md"},
};

// Null: there is none of this name.
constexpr const ObjectType* find_object_type(std::string_view name) {
  const auto* const found = std::find_if(kObjectTypes.begin(), kObjectTypes.end(),
                                         [&](const ObjectType& type) { return type.name == name; });
  return found == kObjectTypes.end() ? nullptr : found;
}

}  // namespace ostler::config
