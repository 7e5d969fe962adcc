// QEMU's objects tls-creds-x509 and tls-creds-psk, which the opener keeps by their ids, and what an option
// "tls-creds" names.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "block/nbd/tls_credentials.h"
#include "block/open.h"
#include "block/options.h"

namespace ostler::block::nbd {

inline constexpr std::string_view kTlsCertificates = "tls-creds-x509", kTlsKeys = "tls-creds-psk";

// Loads what `options` of an object of one of these types describe: dir, endpoint, priority; verify-peer,
// passwordid, sanity-check, or username. All options are taken.
Result<void> add_tls_object(Opener& opener, std::string_view type, const std::string& id,
                            OptionReader options);

// The object of this id; or, if there is none, what the folder of this name holds, with `verify_peer`. An
// empty name is a client's without a folder. kInvalidArgument: the object is of the other endpoint.
Result<std::shared_ptr<const TlsCredentials>> find_tls(const Opener& opener, const std::string& name,
                                                       TlsEndpoint endpoint, bool verify_peer = true);

}  // namespace ostler::block::nbd
