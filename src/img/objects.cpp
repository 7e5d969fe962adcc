#include "img/objects.h"

#include <fmt/format.h>

#include <array>
#include <fstream>

#include "block/options.h"

namespace ostler::img {
namespace {

constexpr size_t kMostSecretBytes = 1 << 16;

Result<std::string> from_base64(const std::string& id, std::string_view text) {
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
      return Error(ErrorKind::kInvalidArgument, fmt::format("secret '{}' is not valid base64", id));
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xff);
    }
  }
  return bytes;
}

}  // namespace

Result<void> add_object(block::Opener& opener, const std::string& description) {
  TRY_ASSIGN(auto values, block::parse_option_list(description, "qom-type"));
  block::OptionReader options(std::move(values), "--object");
  TRY_ASSIGN(const auto type, options.string("qom-type"));
  if (type.value_or("") != "secret")
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--object: objects of type '{}' are not known here; there is 'secret'",
                             type.value_or("")));
  TRY_ASSIGN(const auto id, options.string("id"));
  TRY_ASSIGN(const auto data, options.string("data"));
  TRY_ASSIGN(const auto file, options.string("file"));
  TRY_ASSIGN(const auto format, options.choice("format", {"raw", "base64"}));
  TRY(options.finish());
  if (!id) return options.error("id", "is missing");
  if (data.has_value() == file.has_value())
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("--object: secret '{}' needs one of file=PATH and data=TEXT", *id));
  std::string secret = data.value_or("");
  if (file) {
    std::ifstream stream(*file, std::ios::binary);
    if (!stream) return errno_error(fmt::format("--object: secret '{}': {}", *id, *file), errno);
    secret.resize(kMostSecretBytes + 1);
    stream.read(secret.data(), static_cast<std::streamsize>(secret.size()));
    secret.resize(static_cast<size_t>(stream.gcount()));
    if (secret.size() > kMostSecretBytes)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("--object: secret '{}': {} is longer than 64 KiB", *id, *file));
  }
  if (format == "base64") {
    TRY_ASSIGN(secret, from_base64(*id, secret));
  }
  return opener.add_secret(*id, std::move(secret));
}

}  // namespace ostler::img
