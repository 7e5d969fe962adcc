#include "block/nbd/tls_certificates.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <gnutls/x509.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

namespace ostler::block::nbd {
namespace {

constexpr size_t kMostFileBytes = 4 << 20;
constexpr unsigned kMostCertificates = 1024;

Error bad(const std::string& file, std::string_view problem) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{} {} (sanity-check=off takes it as it is)", file, problem));
}

class Certificates {
 public:
  explicit Certificates(std::string file) : file_(std::move(file)) {}
  Certificates(const Certificates&) = delete;
  Certificates& operator=(const Certificates&) = delete;
  ~Certificates() {
    for (gnutls_x509_crt_t each : list_) gnutls_x509_crt_deinit(each);
  }

  Result<void> load() {
    std::ifstream stream(file_, std::ios::binary);
    if (!stream) return errno_error(file_, errno);
    std::string text(kMostFileBytes + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(stream.gcount()));
    if (text.size() > kMostFileBytes)
      return Error(ErrorKind::kInvalidArgument, file_ + " is longer than 4 MiB");
    const gnutls_datum_t data = {reinterpret_cast<unsigned char*>(text.data()),
                                 static_cast<unsigned>(text.size())};
    unsigned count = kMostCertificates;
    list_.resize(count);
    const int code = gnutls_x509_crt_list_import(list_.data(), &count, &data, GNUTLS_X509_FMT_PEM,
                                                 GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
    list_.resize(code < 0 ? 0 : static_cast<size_t>(code));
    if (code < 0)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{} holds no certificates: {}", file_, gnutls_strerror(code)));
    if (list_.empty()) return Error(ErrorKind::kInvalidArgument, file_ + " holds no certificate");
    return {};
  }

  const std::string& file() const { return file_; }
  const std::vector<gnutls_x509_crt_t>& list() const { return list_; }

 private:
  const std::string file_;
  std::vector<gnutls_x509_crt_t> list_;
};

std::string day(time_t time) {
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(time));
}

Result<void> check_times(const std::string& file, gnutls_x509_crt_t certificate) {
  const time_t now = time(nullptr);
  const time_t first = gnutls_x509_crt_get_activation_time(certificate),
               last = gnutls_x509_crt_get_expiration_time(certificate);
  if (first == static_cast<time_t>(-1) || last == static_cast<time_t>(-1))
    return bad(file, "does not say when it is valid");
  if (last < now) return bad(file, fmt::format("has expired on {}; certtool makes a new one", day(last)));
  if (first > now) return bad(file, fmt::format("is not valid before {}", day(first)));
  return {};
}

// RFC 5280 §4.2.1.9
bool may_sign(gnutls_x509_crt_t certificate) {
  unsigned critical = 0, authority = 0;
  return gnutls_x509_crt_get_basic_constraints(certificate, &critical, &authority, nullptr) >= 0 &&
         authority != 0;
}

// RFC 5280 §4.2.1.12: without purposes it is for all.
bool is_for(gnutls_x509_crt_t certificate, std::string_view purpose) {
  for (unsigned i = 0;; ++i) {
    std::array<char, 128> name = {};
    size_t size = name.size();
    unsigned critical = 0;
    const int code = gnutls_x509_crt_get_key_purpose_oid(certificate, i, name.data(), &size, &critical);
    if (code == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) return i == 0;
    if (code == GNUTLS_E_SHORT_MEMORY_BUFFER) continue;  // too long to be one that is meant
    if (code < 0) return false;
    if (name.data() == purpose || std::string_view(name.data()) == GNUTLS_KP_ANY) return true;
  }
}

}  // namespace

Result<void> check_certificates(const std::string& authority, const std::string& own, TlsEndpoint endpoint) {
  Certificates signers(authority), chain(own);
  if (!authority.empty()) {
    TRY(signers.load());
    for (gnutls_x509_crt_t each : signers.list()) {
      TRY(check_times(authority, each));
      if (!may_sign(each))
        return bad(authority, "is not of an authority: it must say 'ca' in certtool's template");
    }
  }
  if (own.empty()) return {};
  TRY(chain.load());
  for (gnutls_x509_crt_t each : chain.list()) TRY(check_times(own, each));
  const bool server = endpoint == TlsEndpoint::kServer;
  if (may_sign(chain.list().front())) return bad(own, "is of an authority, not of a server or client");
  if (!is_for(chain.list().front(), server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT))
    return bad(own, fmt::format("is not meant for a {0}: it must say 'tls_www_{0}' in certtool's template",
                                server ? "server" : "client"));
  if (authority.empty()) return {};
  unsigned status = 0;
  const int code = gnutls_x509_crt_list_verify(
      chain.list().data(), static_cast<unsigned>(chain.list().size()), signers.list().data(),
      static_cast<unsigned>(signers.list().size()), nullptr, 0, 0, &status);
  if (code < 0) return bad(own, fmt::format("cannot be verified: {}", gnutls_strerror(code)));
  if (status != 0) return bad(own, fmt::format("{}, by {}", verification_problem(status), authority));
  return {};
}

std::string verification_problem(unsigned status) {
  struct Problem {
    unsigned flag;
    const char* text;
  };
  static constexpr Problem kProblems[] = {
      {GNUTLS_CERT_REVOKED, "is revoked"},
      {GNUTLS_CERT_EXPIRED, "has expired"},
      {GNUTLS_CERT_NOT_ACTIVATED, "is not valid yet"},
      {GNUTLS_CERT_UNEXPECTED_OWNER,
       "is for another name than the one expected; tls-hostname=NAME says which"},
      {GNUTLS_CERT_SIGNER_NOT_FOUND, "is not signed by an authority that is trusted"},
      {GNUTLS_CERT_SIGNER_NOT_CA, "is signed by one that is no authority"},
      {GNUTLS_CERT_PURPOSE_MISMATCH, "is meant for another purpose"},
      {GNUTLS_CERT_INSECURE_ALGORITHM, "is signed by an algorithm that is not secure"},
      {GNUTLS_CERT_SIGNATURE_FAILURE, "has a wrong signature"},
  };
  for (const Problem& each : kProblems)
    if ((status & each.flag) != 0) return each.text;
  return "cannot be trusted";
}

}  // namespace ostler::block::nbd
