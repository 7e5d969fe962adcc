// The properties of scsi-hd and scsi-cd, as -device knows them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "config/property.h"

namespace ostler::scsi {

struct Options {
  static constexpr uint32_t kFirstFree = 0xffff;

  std::string id;
  std::string bus;    // "scsi0.0"; empty: the first there is
  std::string drive;  // of scsi-cd also empty: no medium
  uint32_t channel = 0;
  uint32_t scsi_id = kFirstFree;
  uint32_t lun = 0;
  std::string serial;
  std::string device_id;  // of the identification page; "": the serial number, or the drive's id
  std::string vendor;
  std::string product;
  std::string version;  // of the firmware
  uint64_t wwn = 0;     // 0: none
  uint32_t bootindex = 0;
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 512;
  uint32_t min_io_size = 0;  // bytes; 0: not told
  uint32_t opt_io_size = 0;
  uint32_t discard_granularity = 4096;
  uint64_t max_unmap_size = uint64_t{1} << 30;  // bytes
  uint32_t rotation_rate = 0;                   // per minute; 0: not told, 1: no rotating medium
  bool dpofua = false;
  config::OnOffAuto write_cache = config::OnOffAuto::kAuto;  // off: writes are stable when done
  bool share_rw = false;
  std::string werror, rerror;  // report, ignore, stop, enospc, auto; "": auto
};

std::span<const config::DeviceType> device_types();

}  // namespace ostler::scsi
