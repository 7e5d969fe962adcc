// The driver "luks": recognising, creating, measuring.
#include <fmt/format.h>

#include "block/formats/luks/luks_node.h"

namespace ostler::block {
namespace {

constexpr OptionSpec kCreateOptions[] = {
    {"cipher-alg", "str",
     "Name of encryption cipher algorithm: aes-128, aes-192, aes-256 (default), cast5-128, serpent-128, "
     "serpent-192, serpent-256, twofish-128 or twofish-256"},
    {"cipher-mode", "str", "Name of encryption cipher mode: cbc, ctr, ecb or xts (default)"},
    {"hash-alg", "str",
     "Name of encryption hash algorithm: md5, ripemd160, sha1, sha224, sha256 (default), sha384 or sha512"},
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"ivgen-alg", "str", "Name of IV generator algorithm: essiv, plain or plain64 (default)"},
    {"ivgen-hash-alg", "str", "Name of IV generator hash algorithm, for essiv: sha256 (default) or md5"},
    {"key-secret", "str", "ID of the secret that provides the keyslot passphrase"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
    {"size", "size", "Virtual disk size"},
};

constexpr OptionSpec kAmendOptions[] = {
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"keyslot", "num", "The key slot to change; else the first free one, or all that old-secret opens"},
    {"new-secret", "str", "ID of the secret with the passphrase to add"},
    {"old-secret", "str", "ID of the secret with the passphrase to take away"},
    {"state", "str", "What the key slot becomes (active/inactive)"},
};

struct Plan : LuksPlan {
  uint64_t size = 0;
  Preallocation preallocation = Preallocation::kOff;
};

Result<Plan> read_plan(OptionReader& options) {
  TRY_ASSIGN(LuksPlan keys, read_luks_plan(options));
  Plan plan;
  static_cast<LuksPlan&>(plan) = std::move(keys);
  TRY_ASSIGN(const auto size, options.size("size"));
  plan.size = align_up(size.value_or(0), 512);
  TRY_ASSIGN(const auto preallocation, options.choice("preallocation", {"off", "falloc", "full"}));
  if (preallocation == "falloc") plan.preallocation = Preallocation::kFalloc;
  if (preallocation == "full") plan.preallocation = Preallocation::kFull;
  TRY(options.finish());
  if (plan.size > uint64_t{1} << 62)
    return options.error("size", fmt::format("is {}, which is too large", plan.size));
  return plan;
}

int probe_luks(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  return LuksHeader::recognised(head) && load_be<uint16_t>(head.data() + 6) == 1 ? 100 : 0;
}

Task<Result<void>> create_luks(CreateRequest request) {
  CO_TRY_ASSIGN(const Plan plan, read_plan(request.options));
  if (plan.secret.empty())
    co_return request.options.error("key-secret",
                                    "is missing: the name of an --object secret with the passphrase");
  CO_TRY_ASSIGN(const std::string text, request.opener.secret(plan.secret, "key-secret"));
  LuksPlan keys = plan;
  SecretBytes passphrase(text);
  CO_TRY_ASSIGN(const NodePtr file, co_await request.files.make_own());
  auto formatted = co_await format_luks(*file, 0, std::move(keys), std::move(passphrase));
  if (!formatted) co_return std::move(formatted).error();
  co_return co_await file->truncate(plan.header.payload_offset() + plan.size, plan.preallocation);
}

Task<Result<nlohmann::json>> measure_luks(nlohmann::json options, NodePtr source) {
  OptionReader reader(std::move(options), "measure");
  CO_TRY_ASSIGN(const Plan plan, read_plan(reader));
  const uint64_t size = plan.header.payload_offset() + (source ? align_up(source->size(), 512) : plan.size);
  nlohmann::json result;
  result["required"] = size;
  result["fully-allocated"] = size;
  co_return result;
}

}  // namespace

Result<LuksPlan> read_luks_plan(OptionReader& options) {
  LuksPlan plan;
  LuksAlgorithm& algorithm = plan.header.algorithm;
  TRY_ASSIGN(const auto cipher, options.choice("cipher-alg", luks_cipher_names()));
  algorithm.cipher = cipher.value_or(algorithm.cipher);
  TRY_ASSIGN(const auto mode, options.choice("cipher-mode", luks_mode_names()));
  algorithm.mode = mode.value_or(algorithm.mode);
  TRY_ASSIGN(const auto ivgen, options.choice("ivgen-alg", luks_ivgen_names()));
  algorithm.ivgen = ivgen.value_or(algorithm.ivgen);
  TRY_ASSIGN(const auto ivgen_hash, options.choice("ivgen-hash-alg", luks_hash_names()));
  algorithm.ivgen_hash = ivgen_hash.value_or(algorithm.ivgen == "essiv" ? "sha256" : "");
  if (const std::string problem = algorithm.problem(); !problem.empty())
    return options.error(problem.starts_with("xts") ? "cipher-mode" : "ivgen-hash-alg",
                         "does not fit: " + problem);
  TRY_ASSIGN(const auto hash, options.choice("hash-alg", luks_hash_names()));
  plan.header.hash = hash.value_or("sha256");
  TRY_ASSIGN(const auto milliseconds, options.number("iter-time", 20000));
  plan.milliseconds = milliseconds.value_or(plan.milliseconds);
  if (plan.milliseconds == 0) return options.error("iter-time", "must be 1 at least");
  TRY_ASSIGN(const auto secret, options.string("key-secret"));
  plan.secret = secret.value_or("");
  plan.header.place_slots();
  return plan;
}

extern const Driver kLuksDriver;
const Driver kLuksDriver = {.name = "luks",
                            .kind = DriverKind::kFormat,
                            .probe = probe_luks,
                            .open = LuksNode::open,
                            .create = create_luks,
                            .create_options = kCreateOptions,
                            .amend_options = kAmendOptions,
                            .measure = measure_luks};

}  // namespace ostler::block
