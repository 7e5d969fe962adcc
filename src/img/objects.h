// --object: secrets for encrypted images, and credentials for TLS.
#pragma once

#include <string>

#include "block/open.h"

namespace ostler::img {

// "secret,id=NAME,data=TEXT" or "secret,id=NAME,file=PATH", with format=raw or base64;
// "tls-creds-x509,id=NAME,dir=DIR,…" or "tls-creds-psk,…". The opener keeps it.
Result<void> add_object(block::Opener& opener, const std::string& description);

}  // namespace ostler::img
