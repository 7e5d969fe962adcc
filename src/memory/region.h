// The tree from which an address space is flattened. A device or the machine owns its regions as members, at
// addresses that do not change, and places them through a Transaction. Regions of higher priority hide those
// of lower priority where they overlap; among equals the one added last wins. A region that is destroyed
// while it is in a tree takes itself out.
//
//     AddressSpace (root container)
//       +- RamRegion "ram.low"         0            3 GiB
//       +- ContainerRegion "pci"       0            2^52     priority -1
//       |    +- IoRegion "bar0"        0xfe000000   4 KiB
//       +- AliasRegion "shadow"        0xe0000      128 KiB  priority 1   -> RomRegion "bios" + n
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/io_handler.h"
#include "memory/ram_block.h"

namespace ostler::memory {

class AddressSpace;

class Region {
 public:
  virtual ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }
  // Stable only for whoever changes the tree, or under a Transaction.
  uint64_t offset() const { return offset_; }  // within the parent
  bool enabled() const { return enabled_; }
  bool attached() const { return parent_ != nullptr; }

 protected:
  Region(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}

 private:
  friend class AddressSpace;
  friend class Transaction;
  friend class AliasRegion;
  friend struct Flattener;

  std::string name_;
  uint64_t size_;
  // Guarded by the mutex of the address space.
  AddressSpace* space_ = nullptr;
  Region* parent_ = nullptr;
  uint64_t offset_ = 0;
  int priority_ = 0;
  bool enabled_ = true;
  unsigned aliases_ = 0;           // alias regions that show this one
  std::vector<Region*> children_;  // highest priority first, latest first among equals
};

// Holds others. Where no child lies, what is below it in the parent shows through.
class ContainerRegion final : public Region {
 public:
  ContainerRegion(std::string name, uint64_t size) : Region(std::move(name), size) {}
};

class RamRegion final : public Region {
 public:
  explicit RamRegion(std::string name, std::shared_ptr<RamBlock> ram)
      : RamRegion(std::move(name), ram, 0, ram->size()) {}
  RamRegion(std::string name, std::shared_ptr<RamBlock> ram, uint64_t ram_offset, uint64_t size)
      : Region(std::move(name), size), ram_(std::move(ram)), ram_offset_(ram_offset) {}

 private:
  friend struct Flattener;
  std::shared_ptr<RamBlock> ram_;
  uint64_t ram_offset_;
};

// Memory that the guest reads and runs, but cannot write: its writes go to `writes`, or nowhere.
class RomRegion final : public Region {
 public:
  RomRegion(std::string name, std::shared_ptr<RamBlock> ram, bus::IoHandler* writes = nullptr)
      : RomRegion(std::move(name), ram, 0, ram->size(), writes) {}
  RomRegion(std::string name, std::shared_ptr<RamBlock> ram, uint64_t ram_offset, uint64_t size,
            bus::IoHandler* writes = nullptr)
      : Region(std::move(name), size), ram_(std::move(ram)), ram_offset_(ram_offset), writes_(writes) {}

 private:
  friend struct Flattener;
  std::shared_ptr<RamBlock> ram_;
  uint64_t ram_offset_;
  bus::IoHandler* writes_;
};

// Reads and writes go to `handler`, with offsets relative to the region. The handler outlives the region's
// stay in the tree. Accesses larger than `max_access` (1, 2, 4 or 8) arrive in pieces, lowest address first.
class IoRegion final : public Region {
 public:
  IoRegion(std::string name, bus::IoHandler& handler, uint64_t size, unsigned max_access = 8)
      : Region(std::move(name), size), handler_(handler), max_access_(static_cast<uint8_t>(max_access)) {}

 private:
  friend struct Flattener;
  bus::IoHandler& handler_;
  uint8_t max_access_;
};

// Shows [target_offset, target_offset + size) of another region, wherever that one is itself.
class AliasRegion final : public Region {
 public:
  AliasRegion(std::string name, Region& target, uint64_t target_offset, uint64_t size);
  ~AliasRegion() override;

 private:
  friend struct Flattener;
  Region& target_;
  uint64_t target_offset_;
};

}  // namespace ostler::memory
