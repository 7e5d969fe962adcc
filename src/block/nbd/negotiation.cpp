#include "block/nbd/negotiation.h"

#include <fmt/format.h>

#include <algorithm>

namespace ostler::block::nbd {
namespace {

constexpr uint32_t kMostOptionBytes = 65536;      // of one option that is looked at
constexpr uint32_t kMostSkippedBytes = 1u << 20;  // of one that is refused
constexpr uint32_t kMostQueries = 64;             // of metadata contexts

// "Metadata querying": which contexts a query names. An empty leaf ("base:") names all of a namespace, in
// listings only.
bool matches(const std::string& context, const std::string& query, bool listing) {
  if (query == context) return true;
  if (!listing) return false;
  return query == "base:" || query == "qemu:" || query == "qemu:dirty-bitmap:" ? context.starts_with(query)
                                                                               : false;
}

}  // namespace

Task<int> Negotiation::send(std::string bytes) {
  const iovec piece[] = {{bytes.data(), bytes.size()}};
  co_return co_await channel_->send(piece);
}

std::shared_ptr<const Export> Negotiation::find(std::string_view name) const {
  for (const auto& each : exports_)
    if (each->settings().name == name) return each;
  return name.empty() && !exports_.empty() ? exports_.front() : nullptr;
}

Task<bool> Negotiation::run() {
  std::string greeting;
  append_be(greeting, kInitMagic);
  append_be(greeting, kOptionMagic);
  append_be(greeting, static_cast<uint16_t>(kFixedNewstyle | kNoZeroes));
  int error = co_await send(std::move(greeting));
  if (error != 0) co_return false;
  char head[16];
  error = co_await receiver_.read(head, 4);
  if (error != 0) co_return false;
  const auto client_flags = load_be<uint32_t>(head);
  // "The server MUST close the connection" on flags it does not know; clients that are older than fixed
  // newstyle can only name an export, which works all the same.
  if ((client_flags & ~uint32_t{kFixedNewstyle | kNoZeroes}) != 0) co_return false;
  no_zeroes_ = (client_flags & kNoZeroes) != 0;
  for (;;) {
    error = co_await receiver_.read(head, sizeof head);
    if (error != 0 || load_be<uint64_t>(head) != kOptionMagic) co_return false;
    const auto name = static_cast<Option>(load_be<uint32_t>(head + 8));
    const auto length = load_be<uint32_t>(head + 12);
    Next next = Next::kGoOn;
    if (length > kMostOptionBytes) {
      if (length > kMostSkippedBytes || name == Option::kExportName) co_return false;
      error = co_await receiver_.skip(length);
      if (error != 0) co_return false;
      next = co_await refuse(name, OptionReply::kErrTooBig, "the option is too long");
    } else {
      std::string data(length, '\0');
      error = co_await receiver_.read(data.data(), length);
      if (error != 0) co_return false;
      next = co_await option(name, std::move(data));
    }
    if (next != Next::kGoOn) co_return next == Next::kTransmission;
  }
}

Task<Negotiation::Next> Negotiation::reply(Option option, OptionReply type, std::string data) {
  std::string message;
  append_be(message, kOptionReplyMagic);
  append_be(message, static_cast<uint32_t>(option));
  append_be(message, static_cast<uint32_t>(type));
  append_be(message, static_cast<uint32_t>(data.size()));
  message += data;
  const int error = co_await send(std::move(message));
  co_return error == 0 ? Next::kGoOn : Next::kEnd;
}

Task<Negotiation::Next> Negotiation::refuse(Option option, OptionReply type, std::string message) {
  return reply(option, type, std::move(message));
}

Task<Negotiation::Next> Negotiation::option(Option option, std::string data) {
  if (tls_ != nullptr && !secure_ && option != Option::kStartTls && option != Option::kAbort) {
    // NBD_OPT_EXPORT_NAME has no reply that says no.
    if (option == Option::kExportName) co_return Next::kEnd;
    co_return co_await refuse(option, OptionReply::kErrTlsRequired, "this server wants TLS; begin it first");
  }
  switch (option) {
    case Option::kExportName:
      co_return co_await export_name(std::move(data));
    case Option::kAbort:
      static_cast<void>(co_await reply(option, OptionReply::kAck, {}));
      co_return Next::kEnd;
    case Option::kList:
      co_return co_await list(std::move(data));
    case Option::kStartTls:
      co_return co_await start_tls(std::move(data));
    case Option::kInfo:
    case Option::kGo:
      co_return co_await info(option, std::move(data));
    case Option::kStructuredReply:
      if (!data.empty())
        co_return co_await refuse(option, OptionReply::kErrInvalid, "this option has no data");
      session_.structured = true;
      co_return co_await reply(option, OptionReply::kAck, {});
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      co_return co_await meta_context(option, std::move(data));
  }
  co_return co_await refuse(option, OptionReply::kErrUnsupported, "this server does not know the option");
}

Task<Negotiation::Next> Negotiation::export_name(std::string name) {
  auto disk = find(name);
  if (!disk) co_return Next::kEnd;
  if (contexts_of_ != name) session_.contexts.clear();
  std::string message;
  append_be(message, disk->size());
  append_be(message, disk->transmission_flags(session_.structured));
  if (!no_zeroes_) message.append(124, '\0');
  session_.disk = std::move(disk);
  const int error = co_await send(std::move(message));
  co_return error == 0 ? Next::kTransmission : Next::kEnd;
}

Task<Negotiation::Next> Negotiation::list(std::string data) {
  if (!data.empty())
    co_return co_await refuse(Option::kList, OptionReply::kErrInvalid, "this option has no data");
  for (const auto& each : exports_) {
    std::string entry;
    append_be(entry, static_cast<uint32_t>(each->settings().name.size()));
    entry += each->settings().name;
    entry += each->settings().description;
    const Next next = co_await reply(Option::kList, OptionReply::kServer, std::move(entry));
    if (next != Next::kGoOn) co_return next;
  }
  co_return co_await reply(Option::kList, OptionReply::kAck, {});
}

Task<Negotiation::Next> Negotiation::info(Option option, std::string data) {
  Fields fields(data);
  std::string name;
  uint16_t count = 0;
  if (!fields.take_string(name) || !fields.take(count) || fields.size() != count * sizeof(uint16_t))
    co_return co_await refuse(option, OptionReply::kErrInvalid,
                              "the request's lengths contradict each other");
  bool wants_name = false, wants_description = false;
  for (uint16_t wanted = 0; fields.take(wanted);) {
    wants_name |= wanted == static_cast<uint16_t>(Info::kName);
    wants_description |= wanted == static_cast<uint16_t>(Info::kDescription);
  }
  const auto disk = find(name);
  if (!disk)
    co_return co_await refuse(option, OptionReply::kErrUnknown, fmt::format("there is no export '{}'", name));
  std::vector<std::string> answers;
  const auto begin = [&answers](Info type) -> std::string& {
    append_be(answers.emplace_back(), static_cast<uint16_t>(type));
    return answers.back();
  };
  if (wants_name) begin(Info::kName) += disk->settings().name;
  if (wants_description && !disk->settings().description.empty())
    begin(Info::kDescription) += disk->settings().description;
  {
    // Only within a request a job does not put another node there.
    const Client::Pass pass = co_await disk->client().pass();
    std::string& sizes = begin(Info::kBlockSize);
    append_be(sizes, uint32_t{1});
    append_be(sizes,
              std::clamp<uint32_t>(disk->client().node()->limits().request_alignment, 4096, kMostTransfer));
    append_be(sizes, kMostTransfer);
  }
  std::string& whole = begin(Info::kExport);
  append_be(whole, disk->size());
  append_be(whole, disk->transmission_flags(session_.structured));
  for (std::string& answer : answers) {
    const Next next = co_await reply(option, OptionReply::kInfo, std::move(answer));
    if (next != Next::kGoOn) co_return next;
  }
  const Next next = co_await reply(option, OptionReply::kAck, {});
  if (next != Next::kGoOn || option == Option::kInfo) co_return next;
  if (contexts_of_ != name) session_.contexts.clear();
  session_.disk = disk;
  co_return Next::kTransmission;
}

Task<Negotiation::Next> Negotiation::start_tls(std::string data) {
  constexpr Option kOption = Option::kStartTls;
  if (!data.empty()) co_return co_await refuse(kOption, OptionReply::kErrInvalid, "this option has no data");
  if (tls_ == nullptr) co_return co_await refuse(kOption, OptionReply::kErrPolicy, "this server has no TLS");
  if (secure_) co_return co_await refuse(kOption, OptionReply::kErrInvalid, "TLS has begun already");
  // Whatever came unencrypted behind the request could be from somebody in between.
  if (receiver_.buffered() != 0) co_return Next::kEnd;
  const Next next = co_await reply(kOption, OptionReply::kAck, {});
  if (next != Next::kGoOn) co_return next;
  std::unique_ptr<Channel> encrypted = co_await accept_tls(*tls_, *channel_);
  if (!encrypted) co_return Next::kEnd;
  plain_ = std::move(channel_);
  channel_ = std::move(encrypted);
  receiver_.set_channel(*channel_);
  secure_ = true;
  session_ = {};
  co_return Next::kGoOn;
}

Task<Negotiation::Next> Negotiation::meta_context(Option option, std::string data) {
  const bool listing = option == Option::kListMetaContext;
  if (!listing) {
    session_.contexts.clear();
    contexts_of_.clear();
  }
  if (!session_.structured)
    co_return co_await refuse(option, OptionReply::kErrInvalid, "structured replies must be agreed on first");
  Fields fields(data);
  std::string name;
  uint32_t count = 0;
  if (!fields.take_string(name) || !fields.take(count))
    co_return co_await refuse(option, OptionReply::kErrInvalid, "the request is too short");
  if (count > kMostQueries)
    co_return co_await refuse(option, OptionReply::kErrTooBig, "these are too many queries");
  std::vector<std::string> queries(count);
  for (std::string& query : queries)
    if (!fields.take_string(query))
      co_return co_await refuse(option, OptionReply::kErrInvalid, "a query is cut off");
  if (fields.size() != 0)
    co_return co_await refuse(option, OptionReply::kErrInvalid, "there is more than the queries");
  const auto disk = find(name);
  if (!disk)
    co_return co_await refuse(option, OptionReply::kErrUnknown, fmt::format("there is no export '{}'", name));
  for (uint32_t number = 0; number < disk->contexts().size(); ++number) {
    const std::string& context = disk->contexts()[number].name;
    const bool wanted =
        (listing && queries.empty()) || std::ranges::any_of(queries, [&](const std::string& query) {
          return matches(context, query, listing);
        });
    if (!wanted) continue;
    std::string answer;
    append_be(answer, listing ? uint32_t{0} : number);
    answer += context;
    const Next next = co_await reply(option, OptionReply::kMetaContext, std::move(answer));
    if (next != Next::kGoOn) co_return next;
    if (!listing) session_.contexts.push_back(number);
  }
  if (!listing) contexts_of_ = name;
  co_return co_await reply(option, OptionReply::kAck, {});
}

}  // namespace ostler::block::nbd
