#include "machine/random_sources.h"

#include <fmt/format.h>

#include "config/key_values.h"

namespace ostler::machine {

Result<std::set<std::string>> random_sources(const config::Machine& config) {
  std::set<std::string> ids;
  for (const config::Object& object : config.objects) {
    if (object.type != "rng-random" && object.type != "rng-builtin") continue;
    auto keys = config::KeyValues::from(object.origin, object.properties);
    if (object.type == "rng-random") {
      const std::string file = keys.take("filename").value_or("/dev/urandom");
      if (file != "/dev/urandom" && file != "/dev/random")
        return keys.error("filename",
                          fmt::format("'{}' is not available as a source; say /dev/urandom, the kernel's "
                                      "generator, which is fed by the host's devices",
                                      file));
    }
    TRY(keys.finish());
    ids.insert(object.id);
  }
  return ids;
}

}  // namespace ostler::machine
