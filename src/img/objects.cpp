#include "img/objects.h"

#include <fmt/format.h>

#include "block/secret.h"

namespace ostler::img {

Result<void> add_object(block::Opener& opener, const std::string& description) {
  TRY_ASSIGN(auto values, block::parse_option_list(description, "qom-type"));
  block::OptionReader options(std::move(values), "--object");
  TRY_ASSIGN(const auto type, options.string("qom-type"));
  if (type.value_or("") != "secret")
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--object: objects of type '{}' are not known here; there is 'secret'",
                             type.value_or("")));
  TRY_ASSIGN(const auto id, options.string("id"));
  if (!id) return options.error("id", "is missing");
  return block::add_secret(opener, *id,
                           block::OptionReader(options.left(), fmt::format("--object: secret '{}'", *id)));
}

}  // namespace ostler::img
