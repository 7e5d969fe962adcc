// The disks of a machine: drives and named nodes of the block graph, the threads that serve them, and what
// happens to them while the guest runs. The machine's thread, unless said otherwise.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/backend.h"
#include "block/io_context.h"
#include "block/open.h"
#include "config/machine.h"
#include "machine/disk_objects.h"

namespace ostler::machine {

// What a device asks of its disk.
struct DiskWish {
  std::string name;         // of a drive or a node; of a removable one that is empty: a new name
  std::string user;         // the device, for messages
  std::string device = {};  // its id: the disk answers to that too
  bool share_writes = false;
  bool removable = false;                         // only read; may be missing (a size of 0) and change
  std::string write_error = {}, read_error = {};  // as config::Drive has them; "" or "auto": the drive's
  // The I/O thread of each queue, by its id; "": that of all disks. At least one.
  std::vector<std::string> iothreads = {""};
};

class Disks {
 public:
  // The guest must be paused since `disk` failed with `error`: called on any thread.
  using Stop = std::function<void(const std::string& disk, int error)>;

  // Makes objects, nodes and drives in the order of the command line. Errors begin with the option.
  static Result<std::unique_ptr<Disks>> create(const config::Machine& config, Stop stop);
  // Closes all nodes. Devices are gone, or have no request in flight.
  ~Disks();

  // A backend for each queue. Errors begin with the device: no such disk, no such thread, used by another.
  Result<std::vector<std::shared_ptr<block::Backend>>> take(const DiskWish& wish);
  // kNotFound, which begins with `user`: there is no such thread.
  Result<void> check_iothread(const std::string& id, const std::string& user);
  // The settings of a drive; null: `name` is that of a node.
  const config::Drive* drive(const std::string& name) const;

  // The guest goes on: requests that were kept are sent again.
  void resumed();
  // Gives a disk or a node another size in bytes while it is in use; devices tell the guest.
  Result<void> resize(const std::string& name, uint64_t bytes);

  // What a removable drive's medium is from now on: an open node, or none. kInvalidArgument: the drive is
  // none of these; kBusy.
  Result<void> change_medium(const std::string& name, block::NodePtr medium);
  // A medium for that drive, with the settings that the drive was made with. An empty format: recognised.
  Result<block::NodePtr> open_medium(const std::string& name, const std::string& file,
                                     const std::string& format);
  bool has_medium(const std::string& name) const;
  // Closes a node that was opened and is not used after all.
  void give_back(block::NodePtr node);

  // What users of a disk have: the root of a drive's or a device's graph, or a node by its own name.
  // kNotFound.
  Result<block::NodePtr> node(const std::string& name) const;
  // "blockdev-add", "blockdev-del". kBusy: somebody uses the node.
  Result<void> add_node(const config::BlockNode& node);
  Result<void> remove_node(const std::string& name);

  // For jobs and exports: nodes by name, and the thread of disks without one of their own.
  block::Opener& opener() { return opener_; }
  block::IoThread& thread() { return thread_; }

 private:
  explicit Disks(Stop stop) : stop_(std::move(stop)) {}
  struct Drive {
    config::Drive settings;
    block::NodePtr root;  // null: no medium, or a device has it
    std::string user;     // "": none
  };
  struct InUse {
    std::shared_ptr<block::Client> client;
    bool removable = false;
    std::vector<std::shared_ptr<block::NodeBackend>> queues;
  };
  Result<void> open(const config::Machine& config);
  Result<block::NodePtr> find(const DiskWish& wish);
  const InUse* in_use(const std::string& name) const;
  Error unknown(const std::string& name, const std::string& prefix) const;
  block::ErrorPolicy policy(const DiskWish& wish, const config::Drive* settings);

  const Stop stop_;
  block::IoThread thread_;
  DiskObjects objects_;
  block::Opener opener_;
  std::map<std::string, block::NodePtr> nodes_;  // of -blockdev
  std::map<std::string, Drive> drives_;
  std::map<std::string, InUse> in_use_;         // by the name that the device used
  std::map<std::string, std::string> devices_;  // that name by the id of the device
};

}  // namespace ostler::machine
