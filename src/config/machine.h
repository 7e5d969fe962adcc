// What the user asked for, whichever program and spelling was used: plain values that have been checked one
// by one. Nothing is opened or built here; machine::build() does that.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/key_value.h"

namespace ostler::config {

struct Device {
  std::string type;  // "virtio-blk-pci"
  std::string id;
  Properties properties;  // without id and driver
  std::string origin;     // the option as written, for messages: "-device virtio-blk-pci,…"
};

// -global: a property of all devices of a type, unless they say otherwise themselves.
struct GlobalProperty {
  std::string driver;
  KeyValue property;
  std::string origin;
};

// -blockdev: a node of the block graph with a name that devices and other nodes refer to.
struct BlockNode {
  std::string name;
  std::string options;  // a JSON object, nested or with dotted keys
  std::string origin;
};

// -drive: what a device shows the guest, with the node at its root. Actions on errors are "report", "ignore",
// "stop", "enospc" (stop when the host's disk is full, else report) or "" for the default.
struct Drive {
  std::string id;
  std::string file;     // as a person names an image; empty: `options` tell it, or there is no medium
  std::string options;  // of the node: a JSON object without "file" as a whole; no "driver": recognised
  bool read_only = false;
  bool cdrom = false;
  bool snapshot = false;  // writes go to a temporary file
  bool copy_on_read = false;
  bool writethrough = false;
  std::string aio;  // threads, native, io_uring; "": the default
  std::string write_error, read_error;
  std::string limits;          // a JSON object of a throttle group's limits; "": none
  std::string throttle_group;  // "": its own
  std::string origin;

  bool empty() const { return file.empty() && options == "{}"; }
};

// -object
struct Object {
  std::string type;  // secret, tls-creds-…, throttle-group, iothread, memory-backend-…
  std::string id;
  Properties properties;
  std::string origin;
};

// A network; hubport is a socket of the hub `hubid`.
struct Netdev {
  std::string id;
  std::string type = "user";
  Properties properties;
  std::string origin;
};

struct Chardev {
  std::string id;
  std::string backend;  // stdio, file, null, pty, socket, ringbuf, …
  // A back end without an option: virtiofsd for the folder `path`, which the guest mounts as `tag`.
  static constexpr const char* kVirtiofsd = "virtiofsd";
  Properties properties;
  bool mux = false;
  std::string origin;
};

// A folder of the host that a virtio-9p device shows.
struct SharedFolder {
  std::string id;
  std::string path;
  std::string security;  // none, mapped-xattr, passthrough
  bool read_only = false;
  uint32_t file_mode = 0600, directory_mode = 0700;  // on the host, with mapped-xattr
  std::string told_tag;  // the user is told how the guest mounts it; "": need not be
  std::string origin;
};

// A folder for which the machine chooses the device.
struct Share {
  std::string path, tag;
  enum class As { kAuto, kVirtiofs, k9p } as = As::kAuto;  // auto: virtiofs where virtiofsd can serve it
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

// -numa: see machine::NumaTopology.
struct NumaNode {
  bool given = false;                               // false: only nodes of higher numbers are
  uint64_t memory = 0;                              // bytes; 0: memdev, or an equal share
  std::string memdev;                               // id of an object
  std::vector<std::pair<unsigned, unsigned>> cpus;  // first to last
  std::string origin;
};
struct NumaCpu {
  unsigned node = 0;
  std::optional<unsigned> socket, die, core, thread;  // none: all
  std::string origin;
};
struct NumaDistance {
  unsigned from = 0, to = 0;
  uint8_t value = 0;
  std::string origin;
};
struct Numa {
  std::vector<NumaNode> nodes;  // by number
  std::vector<NumaCpu> cpus;
  std::vector<NumaDistance> distances;
};

struct Machine {
  std::string type = "pc";  // pc, microvm
  Properties machine_properties;
  std::vector<Accelerator> accelerators;  // in order of preference; empty: auto
  std::string cpu_model;                  // empty: the machine's default; as -cpu writes it
  unsigned cpus = 1;
  unsigned max_cpus = 1;
  unsigned sockets = 1, dies = 1, cores = 1, threads = 1;  // dies per socket, cores per die
  uint64_t memory_bytes = 128u << 20;
  std::string memory_path;       // -mem-path
  bool memory_prealloc = false;  // -mem-prealloc
  bool memory_huge = false;      // in reserved huge pages
  bool memory_shared = false;    // other processes can map it
  bool memory_lock = false;      // -overcommit mem-lock=on
  Numa numa;

  std::string kernel, initrd, append;
  std::vector<Object> objects;
  std::vector<Object>
      filters;  // of networks: filter-dump, filter-rate; in order from the network to the card
  std::vector<BlockNode> block_nodes;
  std::vector<Drive> drives;
  std::vector<Netdev> netdevs;
  std::vector<Chardev> chardevs;
  std::vector<SharedFolder> shared_folders;
  std::vector<Share> shares;
  std::vector<Device> devices;
  std::vector<GlobalProperty> globals;
  std::vector<std::string> serials;          // chardev id per port, "" for none
  std::optional<std::string> debug_chardev;  // port 0x402

  Rtc rtc;
  std::string name;
  std::array<uint8_t, 16> uuid{};  // in the order of SMBIOS; all zero: none
  bool reboot = true;              // false: -no-reboot, the process ends instead
  bool shutdown = true;            // false: -no-shutdown, the guest stays paused instead
  bool start_paused = false;       // -S
  std::optional<std::string> gdb_chardev;
  bool defaults = true;  // false: -nodefaults
  std::string log_subjects, log_file;
};

}  // namespace ostler::config
