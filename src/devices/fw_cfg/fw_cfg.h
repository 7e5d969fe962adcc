// The firmware configuration device (QEMU's docs/specs/fw_cfg): numbered items that firmware and guests read
// through a selector and a data port, or by DMA. Items are fixed once the machine runs. Guest-facing calls
// come from any vCPU thread.
//
//   +0 selector (16 bits, write)   +1 data (8 bits, read)   +4 DMA descriptor address (64 bits, big-endian)
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "bus/io_handler.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::devices {

class FwCfg final : public bus::IoHandler, public state::Savable {
 public:
  static constexpr uint16_t kPort = 0x510;
  static constexpr uint64_t kPorts = 12;

  enum Key : uint16_t {
    kSignature = 0x00,
    kId = 0x01,
    kUuid = 0x02,
    kRamSize = 0x03,
    kNoGraphic = 0x04,
    kCpuCount = 0x05,
    kBootMenu = 0x0e,
    kMaxCpus = 0x0f,
    kFileDirectory = 0x19,
    kFirstFile = 0x20,
  };

  explicit FwCfg(memory::AddressSpace& space);

  // ---- before the machine runs ----
  void set(uint16_t key, std::vector<uint8_t> bytes);
  template <class T>
  void set_number(uint16_t key, T value) {
    std::vector<uint8_t> bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    set(key, std::move(bytes));
  }
  // Files are found by name through the directory ("etc/e820", "opt/…"); at most 55 characters.
  void add_file(std::string name, std::vector<uint8_t> bytes);

  std::string_view name() const override { return "fw_cfg"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void reset();
  void state(state::Archive& archive) override;

 private:
  void rebuild_directory();
  const std::vector<uint8_t>& item() const;  // the selected one, empty when there is none
  uint8_t next_byte();
  void run_dma();

  mutable std::mutex mutex_;
  memory::Dma dma_;
  std::map<uint16_t, std::vector<uint8_t>> items_;
  std::vector<std::string> file_names_;  // file i has key kFirstFile + i
  uint16_t selected_ = 0;
  uint64_t offset_ = 0;       // within the selected item
  uint64_t dma_address_ = 0;  // as far as written
};

}  // namespace ostler::devices
