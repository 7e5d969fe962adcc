#include "block/secret.h"

#include <fmt/format.h>
#include <gcrypt.h>

#include <fstream>
#include <memory>

#include "base/lazy_library.h"

namespace ostler::block {
namespace {

constexpr size_t kMostSecretBytes = 1 << 16;
constexpr size_t kKeyBytes = 32, kBlockBytes = 16;

Result<std::string> from_base64(const OptionReader& options, std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    if (c == '\n' || c == '\r') continue;
    if (c == '=') break;
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos)
      return Error(ErrorKind::kInvalidArgument, fmt::format("{} is not valid base64", options.where()));
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xff);
    }
  }
  return bytes;
}

Result<std::string> read_file(const OptionReader& options, const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return errno_error(fmt::format("{}: {}", options.where(), path), errno);
  std::string content(kMostSecretBytes + 1, '\0');
  stream.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(stream.gcount()));
  if (content.size() > kMostSecretBytes)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: {} is longer than 64 KiB", options.where(), path));
  return content;
}

struct CloseCipher {
  void operator()(gcry_cipher_hd_t cipher) const { gcry_cipher_close(cipher); }
};

Result<std::string> decrypted(const OptionReader& options, std::string text, const std::string& key,
                              const std::string& iv) {
  if (key.size() != kKeyBytes) return options.error("keyid", "names a secret that is not 32 bytes long");
  if (iv.size() != kBlockBytes) return options.error("iv", "is not 16 bytes long");
  if (text.empty() || text.size() % kBlockBytes != 0)
    return options.error("data", "is not a multiple of 16 bytes, as AES-256-CBC makes it");
  TRY(ostler_lazy_gcrypt.load());
  gcry_check_version(nullptr);
  gcry_cipher_hd_t handle = nullptr;
  if (gcry_cipher_open(&handle, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_CBC, 0) != 0)
    return Error(ErrorKind::kUnsupported, options.where() + ": libgcrypt has no AES-256-CBC");
  const std::unique_ptr<std::remove_pointer_t<gcry_cipher_hd_t>, CloseCipher> cipher(handle);
  if (gcry_cipher_setkey(handle, key.data(), key.size()) != 0 ||
      gcry_cipher_setiv(handle, iv.data(), iv.size()) != 0 ||
      gcry_cipher_decrypt(handle, text.data(), text.size(), nullptr, 0) != 0)
    return Error(ErrorKind::kInvalidArgument, options.where() + " cannot be decrypted");
  // PKCS #7: n bytes of value n at the end.
  const auto padding = static_cast<unsigned char>(text.back());
  if (padding == 0 || padding > kBlockBytes ||
      text.find_first_not_of(static_cast<char>(padding), text.size() - padding) != std::string::npos)
    return Error(ErrorKind::kInvalidArgument,
                 options.where() + " was encrypted with another key than keyid names, or another iv");
  text.resize(text.size() - padding);
  return text;
}

}  // namespace

Result<void> add_secret(Opener& opener, const std::string& id, OptionReader options) {
  TRY_ASSIGN(const auto data, options.string("data"));
  TRY_ASSIGN(const auto file, options.string("file"));
  TRY_ASSIGN(const auto format, options.choice("format", {"raw", "base64"}));
  TRY_ASSIGN(const auto key_id, options.string("keyid"));
  TRY_ASSIGN(const auto iv, options.string("iv"));
  TRY(options.finish());
  if (data.has_value() == file.has_value())
    return Error(ErrorKind::kInvalidArgument, options.where() + " needs one of file=PATH and data=TEXT");
  if (key_id.has_value() != iv.has_value())
    return options.error(iv ? "keyid" : "iv", "is missing; keyid and iv go together");
  std::string secret = data.value_or("");
  if (file) {
    TRY_ASSIGN(secret, read_file(options, *file));
  }
  if (format == "base64") {
    TRY_ASSIGN(secret, from_base64(options, secret));
  }
  if (key_id) {
    TRY_ASSIGN(const std::string key, opener.secret(*key_id, options.where() + ": keyid"));
    TRY_ASSIGN(const std::string start, from_base64(options, *iv));
    TRY_ASSIGN(secret, decrypted(options, std::move(secret), key, start));
  }
  return opener.add_secret(id, std::move(secret));
}

}  // namespace ostler::block
