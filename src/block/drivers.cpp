#include <fmt/format.h>

#include "base/suggest.h"
#include "block/driver.h"

namespace ostler::block {

extern const Driver kFileDriver, kHostDeviceDriver, kNullCoDriver, kNullAioDriver;
extern const Driver kHttpDriver, kHttpsDriver, kNbdDriver;
extern const Driver kRawDriver, kQcow2Driver;
extern const Driver kVdiDriver, kVmdkDriver, kVpcDriver, kVhdxDriver, kParallelsDriver, kQedDriver,
    kDmgDriver, kLuksDriver;
extern const Driver kCopyOnReadDriver, kThrottleDriver, kCompressDriver, kPreallocateDriver, kBlkdebugDriver,
    kLogWritesDriver;

std::span<const Driver* const> drivers() {
  static const Driver* const table[] = {
      // protocols
      &kFileDriver,
      &kHostDeviceDriver,
      &kNullCoDriver,
      &kNullAioDriver,
      &kNbdDriver,
      &kHttpDriver,
      &kHttpsDriver,
      // formats
      &kRawDriver,
      &kQcow2Driver,
      &kVdiDriver,
      &kVmdkDriver,
      &kVpcDriver,
      &kVhdxDriver,
      &kParallelsDriver,
      &kQedDriver,
      &kDmgDriver,
      &kLuksDriver,
      // filters
      &kCopyOnReadDriver,
      &kThrottleDriver,
      &kCompressDriver,
      &kPreallocateDriver,
      &kBlkdebugDriver,
      &kLogWritesDriver,
  };
  return table;
}

const Driver* find_driver(std::string_view name) {
  for (const Driver* driver : drivers())
    if (driver->name == name) return driver;
  return nullptr;
}

Result<const Driver*> need_driver(std::string_view name) {
  if (const Driver* driver = find_driver(name)) return driver;
  std::vector<std::string_view> names;
  std::string list;
  for (const Driver* driver : drivers()) {
    names.push_back(driver->name);
    list += (list.empty() ? "" : ", ") + std::string(driver->name);
  }
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("'{}' is not an image format or block driver{}; known are {}", name,
                           suggestion(name, names), list));
}

}  // namespace ostler::block
