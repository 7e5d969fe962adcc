#include "block/nbd/tls_credentials.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gnutls/gnutls.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <vector>

#include "base/lazy_library.h"
#include "block/nbd/tls_certificates.h"

namespace ostler::block::nbd {
namespace {

constexpr const char* kAuthority = "ca-cert.pem";
constexpr const char* kKeyFile = "keys.psk";
// What gnutls_priority_init() needs beside "NORMAL" for TLS 1.2 without certificates.
constexpr std::string_view kWithKeys = ":+ECDHE-PSK:+DHE-PSK:+PSK";

std::string in_folder(const std::string& folder, std::string_view name) {
  return fmt::format("{}/{}", folder, name);
}

bool exists(const std::string& path) {
  return access(path.c_str(), F_OK) == 0;
}

Result<void> need_file(const std::string& path, std::string_view cure) {
  if (access(path.c_str(), R_OK) == 0) return {};
  if (errno == ENOENT) return Error(ErrorKind::kNotFound, fmt::format("{} is missing; {}", path, cure));
  return errno_error(path, errno);
}

Error file_error(const std::string& what, int code) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", what, gnutls_strerror(code)));
}

// Where libnbd looks when no folder is named (nbd_set_tls_certificates(3)); empty: nowhere.
std::string default_folder() {
  std::vector<std::string> folders;
  if (geteuid() == 0) {
    folders.emplace_back("/etc/pki/libnbd");
  } else if (const char* const home = std::getenv("HOME"); home != nullptr) {
    folders.push_back(std::string(home) + "/.pki/libnbd");
    folders.push_back(std::string(home) + "/.config/pki/libnbd");
  }
  for (const std::string& each : folders)
    if (exists(in_folder(each, kAuthority))) return each;
  return {};
}

bool is_address(const std::string& hostname) {
  std::array<unsigned char, sizeof(in6_addr)> address;
  return inet_pton(AF_INET, hostname.c_str(), address.data()) == 1 ||
         inet_pton(AF_INET6, hostname.c_str(), address.data()) == 1;
}

// The key of `user` in psktool's file: lines of "user:key in hexadecimal digits".
Result<std::string> key_of(const std::string& file, const std::string& user) {
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    const size_t colon = line.rfind(':');
    if (colon == std::string::npos || std::string_view(line).substr(0, colon) != user) continue;
    return line.substr(colon + 1);
  }
  return Error(
      ErrorKind::kNotFound,
      fmt::format("{0} has no key of the user '{1}'; username=NAME says another, and psktool -u {1} -p "
                  "{0} makes one",
                  file, user));
}

}  // namespace

void EndTlsSession::operator()(gnutls_session_int* session) const {
  gnutls_deinit(session);
}

TlsCredentials::~TlsCredentials() {
  if (certificates_ != nullptr) gnutls_certificate_free_credentials(certificates_);
  if (server_keys_ != nullptr) gnutls_psk_free_server_credentials(server_keys_);
  if (client_keys_ != nullptr) gnutls_psk_free_client_credentials(client_keys_);
  if (priority_ != nullptr) gnutls_priority_deinit(priority_);
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::load(TlsSettings settings) {
  TRY(ostler_lazy_gnutls.load());
  const std::shared_ptr<TlsCredentials> made(new TlsCredentials(std::move(settings)));
  TRY(made->load_priority());
  if (made->has_keys())
    TRY(made->load_keys());
  else
    TRY(made->load_certificates());
  return std::shared_ptr<const TlsCredentials>(made);
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::load_folder(const std::string& folder,
                                                                          TlsEndpoint endpoint,
                                                                          bool verify_peer) {
  TlsSettings settings = {
      .endpoint = endpoint, .folder = folder, .verify_peer = verify_peer, .sanity_check = false};
  const char* const sign = endpoint == TlsEndpoint::kServer ? "server-cert.pem" : kAuthority;
  if (!folder.empty() && !exists(in_folder(folder, sign))) {
    if (!exists(in_folder(folder, kKeyFile)))
      return Error(ErrorKind::kNotFound,
                   fmt::format("{}: there is neither {} nor {}; certtool or psktool make them", folder, sign,
                               kKeyFile));
    settings.kind = TlsSettings::Kind::kKeys;
  }
  return load(std::move(settings));
}

Result<void> TlsCredentials::load_priority() {
  std::string text = settings_.priority.empty() ? "NORMAL" : settings_.priority;
  if (has_keys()) text += kWithKeys;
  const char* place = nullptr;
  const int code = gnutls_priority_init(&priority_, text.c_str(), &place);
  if (code >= 0) return {};
  priority_ = nullptr;
  const std::string_view rest = place == nullptr ? "" : place;
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("priority={}: GnuTLS does not know '{}'; gnutls-cli --list shows what it has",
                           settings_.priority, rest.substr(0, rest.find(':'))));
}

Result<void> TlsCredentials::load_keys() {
  const std::string file = in_folder(settings_.folder, kKeyFile);
  TRY(need_file(file, "psktool makes it"));
  int code = 0;
  if (is_server()) {
    gnutls_psk_allocate_server_credentials(&server_keys_);
    code = gnutls_psk_set_server_credentials_file(server_keys_, file.c_str());
    gnutls_psk_set_server_known_dh_params(server_keys_, GNUTLS_SEC_PARAM_MEDIUM);
  } else {
    TRY_ASSIGN(std::string digits, key_of(file, settings_.username));
    const gnutls_datum_t key = {reinterpret_cast<unsigned char*>(digits.data()),
                                static_cast<unsigned>(digits.size())};
    gnutls_psk_allocate_client_credentials(&client_keys_);
    code =
        gnutls_psk_set_client_credentials(client_keys_, settings_.username.c_str(), &key, GNUTLS_PSK_KEY_HEX);
  }
  if (code < 0) return file_error(file, code);
  return {};
}

Result<void> TlsCredentials::load_certificates() {
  gnutls_certificate_allocate_credentials(&certificates_);
  const std::string folder = settings_.folder.empty() && !is_server() ? default_folder() : settings_.folder;
  if (folder.empty()) {
    const int code = gnutls_certificate_set_x509_system_trust(certificates_);
    return code < 0 ? file_error("the certificates that this host trusts", code) : Result<void>();
  }
  const std::string role = is_server() ? "server" : "client";
  const std::string own = in_folder(folder, role + "-cert.pem"), key = in_folder(folder, role + "-key.pem"),
                    authority = in_folder(folder, kAuthority), revoked = in_folder(folder, "ca-crl.pem");
  const bool has_own = is_server() || exists(own) || exists(key);
  if (has_own) {
    TRY(need_file(own, "certtool makes it"));
    TRY(need_file(key, "it is the private key of " + own));
  }
  const bool has_authority = settings_.verify_peer || exists(authority);
  if (has_authority)
    TRY(need_file(authority,
                  "it says whose certificates are good (with verify-peer=off, or for a folder "
                  "--tls-verify-peer off, every peer is)"));
  if (settings_.sanity_check)
    TRY(check_certificates(has_authority ? authority : "", has_own ? own : "", settings_.endpoint));
  if (has_own) {
    const int code =
        gnutls_certificate_set_x509_key_file2(certificates_, own.c_str(), key.c_str(), GNUTLS_X509_FMT_PEM,
                                              settings_.password ? settings_.password->c_str() : nullptr, 0);
    if (code == GNUTLS_E_DECRYPTION_FAILED)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{} is encrypted, {}", key,
                               settings_.password ? "and not with the password of passwordid=ID"
                                                  : "and its password is missing: passwordid=ID names an "
                                                    "--object secret that has it"));
    if (code < 0) return file_error(fmt::format("{} with {}", own, key), code);
  }
  if (has_authority) {
    const int count =
        gnutls_certificate_set_x509_trust_file(certificates_, authority.c_str(), GNUTLS_X509_FMT_PEM);
    if (count < 0) return file_error(authority, count);
    if (count == 0) return Error(ErrorKind::kInvalidArgument, authority + " holds no certificate");
  }
  if (exists(revoked)) {
    const int code =
        gnutls_certificate_set_x509_crl_file(certificates_, revoked.c_str(), GNUTLS_X509_FMT_PEM);
    if (code < 0) return file_error(revoked, code);
  }
  if (is_server()) gnutls_certificate_set_known_dh_params(certificates_, GNUTLS_SEC_PARAM_MEDIUM);
  return {};
}

bool TlsCredentials::needs_hostname() const {
  return !is_server() && !has_keys() && settings_.verify_peer;
}

TlsSession TlsCredentials::new_session(const std::string& hostname) const {
  gnutls_session_t made = nullptr;
  const unsigned role = is_server() ? GNUTLS_SERVER : GNUTLS_CLIENT;
  if (gnutls_init(&made, role | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) return nullptr;
  TlsSession session(made);
  int code = gnutls_priority_set(made, priority_);
  if (code >= 0 && has_keys())
    code = gnutls_credentials_set(made, GNUTLS_CRD_PSK,
                                  is_server() ? static_cast<void*>(server_keys_) : client_keys_);
  else if (code >= 0)
    code = gnutls_credentials_set(made, GNUTLS_CRD_CERTIFICATE, certificates_);
  if (code < 0) return nullptr;
  if (has_keys()) return session;
  if (is_server()) {
    if (!settings_.verify_peer) return session;
    gnutls_certificate_server_set_request(made, GNUTLS_CERT_REQUIRE);
    gnutls_session_set_verify_cert(made, nullptr, 0);
    return session;
  }
  // RFC 6066 §3: names, not addresses.
  if (!hostname.empty() && !is_address(hostname) &&
      gnutls_server_name_set(made, GNUTLS_NAME_DNS, hostname.data(), hostname.size()) < 0)
    return nullptr;
  if (settings_.verify_peer) gnutls_session_set_verify_cert(made, hostname.c_str(), 0);
  return session;
}

std::string tls_failure(gnutls_session_int* session, int code) {
  if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
    return "its certificate " + verification_problem(gnutls_session_get_verify_cert_status(session));
  if (code == GNUTLS_E_FATAL_ALERT_RECEIVED) {
    const char* const name = gnutls_alert_get_name(gnutls_alert_get(session));
    return fmt::format("it refuses this end of the connection: {}",
                       name != nullptr ? name : "no reason told");
  }
  return gnutls_strerror(code);
}

}  // namespace ostler::block::nbd
