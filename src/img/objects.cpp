#include "img/objects.h"

#include <fmt/format.h>

#include "block/nbd/tls_objects.h"
#include "block/secret.h"

namespace ostler::img {

Result<void> add_object(block::Opener& opener, const std::string& description) {
  TRY_ASSIGN(auto values, block::parse_option_list(description, "qom-type"));
  block::OptionReader options(std::move(values), "--object");
  TRY_ASSIGN(const auto type, options.string("qom-type"));
  const std::string kind = type.value_or("");
  const bool tls = kind == block::nbd::kTlsCertificates || kind == block::nbd::kTlsKeys;
  if (!tls && kind != "secret")
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--object: objects of type '{}' are not known here; there are secret, {} and {}",
                             kind, block::nbd::kTlsCertificates, block::nbd::kTlsKeys));
  TRY_ASSIGN(const auto id, options.string("id"));
  if (!id) return options.error("id", "is missing");
  block::OptionReader rest(options.left(), fmt::format("--object: {} '{}'", kind, *id));
  if (tls) return block::nbd::add_tls_object(opener, kind, *id, std::move(rest));
  return block::add_secret(opener, *id, std::move(rest));
}

}  // namespace ostler::img
