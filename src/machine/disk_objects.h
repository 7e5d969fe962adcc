// -object: what disks share.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "block/filters/throttle.h"
#include "block/io_context.h"
#include "block/open.h"
#include "config/machine.h"

namespace ostler::machine {

class DiskObjects {
 public:
  static bool has(std::string_view type);
  // Secrets and credentials of TLS go to `opener`. Errors begin with the option.
  Result<void> add(const config::Object& object, block::Opener& opener);
  // kNotFound names the known ones.
  Result<block::IoContext*> iothread(const std::string& id, const std::string& user);
  // A group that a drive with limits makes: others may name it, also drives before that one.
  void add_throttle_group(const std::string& id);
  void settle();  // all I/O threads, as IoThread has it

 private:
  Result<void> make(const config::Object& object, block::Opener& opener);

  std::map<std::string, std::shared_ptr<block::ThrottleGroup>> throttle_groups_;
  std::map<std::string, std::unique_ptr<block::IoThread>> iothreads_;
};

}  // namespace ostler::machine
