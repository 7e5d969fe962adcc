// What the user asked for, whichever program and spelling was used: plain values that have been checked one
// by one. Nothing is opened or built here; machine::build() does that.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/key_value.h"

namespace ostler::config {

struct Device {
  std::string type;  // "virtio-blk-pci"
  std::string id;
  Properties properties;  // without id and driver
  std::string origin;     // the option as written, for messages: "-device virtio-blk-pci,…"
};

// A node of the block graph with a name that devices refer to.
struct BlockNode {
  std::string name;
  std::string driver = "raw";  // raw, qcow2, another format, file, null-co; "": recognised by the content
  std::string file;
  bool read_only = false;
  bool snapshot = false;  // writes go to a temporary overlay
  bool unmap = true;      // discard=unmap
  std::string origin;
};

struct Netdev {
  std::string id;
  std::string type = "user";
  Properties properties;
  std::string origin;
};

struct Chardev {
  std::string id;
  std::string backend;  // stdio, file, null, pty, socket, ringbuf, …
  Properties properties;
  bool mux = false;
  std::string origin;
};

struct Accelerator {
  std::string name;
  Properties properties;
};

struct Rtc {
  std::string base = "utc";  // utc, localtime or a date
  std::string clock = "host";
};

struct Machine {
  std::string type = "pc";  // pc, microvm
  Properties machine_properties;
  std::vector<Accelerator> accelerators;  // in order of preference; empty: auto
  std::string cpu_model;                  // empty: the machine's default; as -cpu writes it
  unsigned cpus = 1;
  unsigned max_cpus = 1;
  unsigned sockets = 1, cores = 1, threads = 1;
  uint64_t memory_bytes = 128u << 20;

  std::string kernel, initrd, append;
  std::vector<BlockNode> block_nodes;
  std::vector<Netdev> netdevs;
  std::vector<Chardev> chardevs;
  std::vector<Device> devices;
  std::vector<std::string> serials;          // chardev id per port, "" for none
  std::optional<std::string> debug_chardev;  // port 0x402

  Rtc rtc;
  std::string name;
  std::array<uint8_t, 16> uuid{};  // in the order of SMBIOS; all zero: none
  bool reboot = true;              // false: -no-reboot, the process ends instead
  bool shutdown = true;            // false: -no-shutdown, the guest stays paused instead
  bool start_paused = false;       // -S
  std::optional<std::string> gdb_chardev;
  bool defaults = true;       // false: -nodefaults
  bool snapshot_all = false;  // -snapshot
  std::string log_subjects, log_file;
};

}  // namespace ostler::config
