// Mistakes in certificates (RFC 5280) told when they are loaded, in words; otherwise each connection would
// fail later, at the other end, without a reason. Any thread; GnuTLS is loaded.
#pragma once

#include <string>

#include "base/result.h"
#include "block/nbd/tls_credentials.h"

namespace ostler::block::nbd {

// `authority`: a file of certificates that sign, `own`: a file of this endpoint's certificate and those
// between it and the authority; "": there is none. Each must be valid today, the first ones may sign, the own
// one is no authority, is meant for the endpoint, and is signed by the authority.
Result<void> check_certificates(const std::string& authority, const std::string& own, TlsEndpoint endpoint);

// What is wrong with a certificate whose verification gave `status` (gnutls_certificate_status_t): "is …".
std::string verification_problem(unsigned status);

}  // namespace ostler::block::nbd
