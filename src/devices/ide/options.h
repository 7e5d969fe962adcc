// The properties of ide-hd and ide-cd, as -device knows them.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "config/property.h"

namespace ostler::ide {

struct Options {
  std::string id;
  std::string bus;    // "ide.0", "ide.1"; empty: the first place that is free
  std::string drive;  // of ide-cd also empty: no medium
  uint32_t unit = 2;  // 0 or 1; 2: the first that is free
  std::string serial;
  std::string model;
  std::string version;  // of the firmware
  uint32_t physical_block_size = 512;
  uint32_t rotation_rate = 0;  // per minute; 0: not told, 1: no rotating medium
  uint64_t wwn = 0;            // 0: none
  bool discard = true;
  uint32_t bootindex = 0;
  bool share_rw = false;
  std::string werror, rerror;  // report, ignore, stop, enospc, auto; "": auto
};

std::span<const config::DeviceType> device_types();

}  // namespace ostler::ide
