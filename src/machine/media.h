// Removable media: trays that the host opens and closes, and what lies in them. The operations are those of
// QMP's blockdev-open-tray, -close-tray, -insert-medium, -remove-medium, -change-medium and eject.
//
// A drive is named by its device's id, or by its -drive or node. The machine's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "machine/disks.h"

namespace ostler::machine {

// A device's tray.
class Tray {
 public:
  virtual ~Tray() = default;
  // False: the guest has locked it, and `force` is not given. A guest that has is asked to open it.
  virtual bool open(bool force) = 0;
  virtual void close() = 0;  // the guest is told what is in it now
  virtual bool is_open() const = 0;
  virtual bool is_locked() const = 0;
};

struct MediumState {
  std::string device;  // its id, or a name made for it
  bool open = false, locked = false, inserted = false;
  std::string file;  // of the medium, "" without one
};

class Media {
 public:
  explicit Media(Disks& disks) : disks_(disks) {}
  // While the machine is built.
  void add(std::string device, std::string drive, std::unique_ptr<Tray> tray);

  std::vector<MediumState> list() const;
  // kBusy: locked by the guest, which has been asked to open it.
  Result<void> open_tray(const std::string& name, bool force);
  Result<void> close_tray(const std::string& name);
  // A node made before; kState: the tray is closed, or holds a medium.
  Result<void> insert(const std::string& name, const std::string& node);
  // kState: the tray is closed. Nothing happens to an empty one.
  Result<void> remove(const std::string& name);
  // Opens the tray, puts `file` in place of what is there, and closes it. When `file` cannot be opened
  // nothing changes. An empty format: recognised by the content.
  Result<void> change(const std::string& name, const std::string& file, const std::string& format,
                      bool force);
  // Opens the tray and takes out what is there.
  Result<void> eject(const std::string& name, bool force);

 private:
  struct Drive {
    std::string device, drive;
    std::unique_ptr<Tray> tray;
  };
  Result<Drive*> find(const std::string& name);

  Disks& disks_;
  std::vector<Drive> drives_;
};

}  // namespace ostler::machine
