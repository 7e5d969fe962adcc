#include "machine/media.h"

#include <fmt/format.h>

#include <utility>

#include "base/suggest.h"

namespace ostler::machine {
namespace {

Error closed(const std::string& name) {
  return Error(ErrorKind::kState, fmt::format("the tray of '{}' is closed; open it first", name));
}

}  // namespace

void Media::add(std::string device, std::string drive, std::unique_ptr<Tray> tray) {
  drives_.push_back({std::move(device), std::move(drive), std::move(tray)});
}

Result<Media::Drive*> Media::find(const std::string& name) {
  for (Drive& each : drives_)
    if (each.device == name || (!each.drive.empty() && each.drive == name)) return &each;
  std::vector<std::string_view> known;
  for (const Drive& each : drives_) known.push_back(each.device);
  return Error(ErrorKind::kNotFound, fmt::format("there is no drive with a removable medium '{}'{}", name,
                                                 suggestion(name, known)));
}

std::vector<MediumState> Media::list() const {
  std::vector<MediumState> states;
  for (const Drive& each : drives_) {
    MediumState state{.device = each.device,
                      .open = each.tray->is_open(),
                      .locked = each.tray->is_locked(),
                      .inserted = disks_.has_medium(each.device),
                      .file = {}};
    if (const auto node = disks_.node(each.device); node && state.inserted) state.file = (*node)->filename();
    states.push_back(std::move(state));
  }
  return states;
}

Result<void> Media::open_tray(const std::string& name, bool force) {
  TRY_ASSIGN(const Drive* const drive, find(name));
  if (drive->tray->open(force)) return {};
  return Error(ErrorKind::kBusy,
               fmt::format("the guest has locked the tray of '{}' and was asked to open it; wait for it, or "
                           "force the tray open",
                           name),
               EBUSY);
}

Result<void> Media::close_tray(const std::string& name) {
  TRY_ASSIGN(const Drive* const drive, find(name));
  drive->tray->close();
  return {};
}

Result<void> Media::insert(const std::string& name, const std::string& node) {
  TRY_ASSIGN(const Drive* const drive, find(name));
  if (!drive->tray->is_open()) return closed(name);
  if (disks_.has_medium(drive->device))
    return Error(ErrorKind::kState, fmt::format("there is a medium in '{}' already; remove it first", name));
  TRY_ASSIGN(block::NodePtr medium, disks_.node(node));
  return disks_.change_medium(drive->device, std::move(medium));
}

Result<void> Media::remove(const std::string& name) {
  TRY_ASSIGN(const Drive* const drive, find(name));
  if (!drive->tray->is_open()) return closed(name);
  return disks_.change_medium(drive->device, nullptr);
}

Result<void> Media::change(const std::string& name, const std::string& file, const std::string& format,
                           bool force) {
  TRY_ASSIGN(const Drive* const drive, find(name));
  TRY_ASSIGN(block::NodePtr medium, disks_.open_medium(drive->drive, file, format));
  auto done = open_tray(name, force);
  if (done) done = disks_.change_medium(drive->device, medium);
  if (!done) {
    disks_.give_back(std::move(medium));
    return done;
  }
  drive->tray->close();
  return {};
}

Result<void> Media::eject(const std::string& name, bool force) {
  TRY(open_tray(name, force));
  return remove(name);
}

}  // namespace ostler::machine
