#include "block/open.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/suggest.h"
#include "block/driver.h"
#include "block/file_name.h"
#include "block/formats/raw/raw_node.h"

namespace ostler::block {
namespace {

using nlohmann::json;

constexpr std::string_view kBackingFileOf = "backing file of ";

// "nbd" of "nbd://host" and of "nbd:host:port"; empty for paths. A '/' before the colon makes it a path.
std::string_view scheme_of(std::string_view filename) {
  const size_t colon = filename.find(':');
  if (colon == std::string_view::npos || filename.substr(0, colon).find('/') != std::string_view::npos)
    return {};
  return filename.substr(0, colon);
}

const Driver* driver_of_scheme(std::string_view scheme) {
  for (const Driver* driver : drivers()) {
    std::string_view rest = driver->schemes;
    while (!rest.empty()) {
      const size_t space = rest.find(' ');
      if (rest.substr(0, space) == scheme) return driver;
      rest.remove_prefix(space == std::string_view::npos ? rest.size() : space + 1);
    }
  }
  return nullptr;
}

Result<json> parse_json_name(std::string_view text) {
  json parsed = json::parse(text, nullptr, false);
  if (parsed.is_discarded() || !parsed.is_object())
    return Error(ErrorKind::kInvalidArgument, fmt::format("'json:{}' does not hold a JSON object", text));
  return nest_options(parsed);
}

// Not written where they are used: GCC 12 does not compile such lists within coroutines.
json named_driver(const std::string& driver, const std::string& filename) {
  return json{{"driver", driver}, {"filename", filename}};
}
json with_file(json file, const std::string& format) {
  json options = json::object();
  options["file"] = std::move(file);
  if (!format.empty()) options["driver"] = format;
  return options;
}

// Neither of two formats may win unseen: a disk would be read by the other's rules.
Result<void> check_format_on_top(const std::string& filename, const std::string& named,
                                 const std::string& format) {
  TRY_ASSIGN(const Driver* driver, need_driver(named));
  if (driver->kind == DriverKind::kProtocol) return {};
  return Error(
      ErrorKind::kInvalidArgument,
      fmt::format(
          "{}: this name's driver is '{}', and the format given beside it '{}'; leave one of them out",
          filename, named, format));
}

// The options every node has, taken out of `options` and applied to `flags`. What is of the node alone is
// returned.
Result<DetectZeroes> apply_generic(OptionReader& options, OpenFlags& flags) {
  TRY_ASSIGN(const auto read_only, options.boolean("read-only"));
  TRY_ASSIGN(const auto automatic, options.boolean("auto-read-only"));
  static_cast<void>(automatic);  // Opener::open_at()
  if (read_only.value_or(false)) flags.writable = false;
  TRY_ASSIGN(const auto force_share, options.boolean("force-share"));
  flags.force_share = force_share.value_or(flags.force_share);
  if (flags.force_share && flags.writable)
    return Error(ErrorKind::kInvalidArgument,
                 options.where() +
                     ": force-share=on, or -U, is for images that are only read, since two writers "
                     "destroy an image's tables; open it with read-only=on too, or without sharing");
  TRY_ASSIGN(const auto discard, options.choice("discard", {"unmap", "on", "ignore", "off"}));
  if (discard) flags.unmap = *discard == "unmap" || *discard == "on";
  TRY_ASSIGN(const auto zeroes, options.choice("detect-zeroes", {"off", "on", "unmap"}));
  if (zeroes == "unmap" && !flags.unmap)
    return options.error("detect-zeroes", "is unmap, which needs discard=unmap");
  if (auto cache = options.take("cache")) {
    OptionReader reader(*cache, options.where());
    TRY_ASSIGN(const auto direct, reader.boolean("direct"));
    TRY_ASSIGN(const auto no_flush, reader.boolean("no-flush"));
    TRY(reader.finish());
    flags.direct = direct.value_or(flags.direct);
    flags.no_flush = no_flush.value_or(flags.no_flush);
  }
  if (zeroes == "unmap") return DetectZeroes::kUnmap;
  return zeroes == "on" ? DetectZeroes::kOn : DetectZeroes::kOff;
}

Error taken(const std::string& id) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("there is an object '{}' already; give this one another id", id));
}

bool wants_auto_read_only(const json& options) {
  const auto found = options.find("auto-read-only");
  return found != options.end() && (*found == true || *found == "on" || *found == "yes" || *found == "true");
}

}  // namespace

Result<void> set_cache_mode(OpenFlags& flags, std::string_view mode) {
  struct Mode {
    std::string_view name;
    bool direct, no_flush, writethrough;
  };
  static constexpr Mode kModes[] = {{"none", true, false, false},       {"off", true, false, false},
                                    {"writeback", false, false, false}, {"writethrough", false, false, true},
                                    {"unsafe", false, true, false},     {"directsync", true, false, true}};
  for (const Mode& each : kModes)
    if (each.name == mode) {
      flags.direct = each.direct;
      flags.no_flush = each.no_flush;
      flags.writethrough = each.writethrough;
      return {};
    }
  return Error(
      ErrorKind::kInvalidArgument,
      fmt::format("'{}' is not a cache mode; there are none, writeback, writethrough, directsync, unsafe",
                  mode));
}

std::string backing_path(const std::string& parent, const std::string& file) {
  if (file.empty() || file.front() == '/' || !scheme_of(file).empty()) return file;
  if (!scheme_of(parent).empty() && parent.find('/') == std::string::npos) return file;
  const size_t slash = parent.rfind('/');
  return slash == std::string::npos ? file : parent.substr(0, slash + 1) + file;
}

Result<void> check_file_name(const std::string& filename) {
  const size_t end = filename.find_first_of(":/");
  if (end == std::string::npos || filename[end] == '/') return {};
  const std::string_view scheme = scheme_of(filename);
  if (scheme == "json" || (!scheme.empty() && driver_of_scheme(scheme) != nullptr)) return {};
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{0}: what stands before a colon is a protocol, and there is none '{1}'; write "
                           "./{0} for a file of that name",
                           filename, scheme));
}

Result<json> options_of_filename(const std::string& filename) {
  const std::string_view scheme = scheme_of(filename);
  if (scheme == "json") return parse_json_name(std::string_view(filename).substr(5));
  if (scheme == "file") return json{{"driver", "file"}, {"filename", filename.substr(5)}};
  if (const Driver* driver = driver_of_scheme(scheme); driver != nullptr && !scheme.empty())
    return json{{"driver", std::string(driver->name)}, {"filename", filename}};
  return json{{"driver", "file"}, {"filename", filename}};
}

std::string_view recognise(std::span<const std::byte> head, std::span<const std::byte> tail, uint64_t size,
                           std::string_view filename) {
  std::string_view best = "raw";
  int best_score = 0;
  for (const Driver* driver : drivers()) {
    if (driver->probe == nullptr) continue;
    const int score = driver->probe(head, tail, size, filename);
    if (score > best_score) {
      best_score = score;
      best = driver->name;
    }
  }
  return best;
}

Task<Result<std::string>> probe_format(NodePtr file, std::string filename) {
  const uint64_t size = file->size();
  std::vector<std::byte> head(std::min<uint64_t>(size, kProbedHead)),
      tail(std::min<uint64_t>(size, kProbedTail));
  int error = 0;
  if (!head.empty()) error = co_await read_bytes(*file, 0, head.data(), head.size());
  if (error == 0 && !tail.empty())
    error = co_await read_bytes(*file, size - tail.size(), tail.data(), tail.size());
  if (error != 0) co_return errno_error(filename + ": its format cannot be read", -error);
  co_return std::string(recognise(head, tail, size, filename));
}

NodePtr Opener::find(const std::string& node_name) const {
  const std::lock_guard lock(mutex_);
  const auto found = names_.find(node_name);
  return found == names_.end() ? nullptr : found->second.lock();
}

Result<void> Opener::add(const NodePtr& node, std::string node_name) {
  const std::lock_guard lock(mutex_);
  if (node_name.empty()) {
    std::erase_if(names_, [](const auto& each) { return each.second.expired(); });
    node_name = fmt::format("#block{}", next_name_++);
  }
  auto& place = names_[node_name];
  if (!place.expired())
    return Error(ErrorKind::kInvalidArgument, fmt::format("there is a block node '{}' already", node_name));
  place = node;
  node->set_name(std::move(node_name));
  return {};
}

Result<void> Opener::add_secret(const std::string& id, std::string secret) {
  const std::lock_guard lock(mutex_);
  if (tls_.contains(id) || !secrets_.emplace(id, std::move(secret)).second) return taken(id);
  return {};
}

Result<std::string> Opener::secret(const std::string& id, std::string_view option) const {
  const std::lock_guard lock(mutex_);
  const auto found = secrets_.find(id);
  if (found != secrets_.end()) return found->second;
  std::vector<std::string_view> known;
  for (const auto& entry : secrets_) known.push_back(entry.first);
  return Error(ErrorKind::kNotFound,
               fmt::format("{1}: there is no secret '{0}'{2}; give it with --object secret,id={0},file=PATH",
                           id, option, suggestion(id, known)));
}

Result<void> Opener::add_tls(const std::string& id, std::shared_ptr<const nbd::TlsCredentials> credentials) {
  const std::lock_guard lock(mutex_);
  if (secrets_.contains(id) || !tls_.emplace(id, std::move(credentials)).second) return taken(id);
  return {};
}

std::shared_ptr<const nbd::TlsCredentials> Opener::tls(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = tls_.find(id);
  return found == tls_.end() ? nullptr : found->second;
}

Task<Result<NodePtr>> Opener::open(std::string filename, std::string format, OpenFlags flags) {
  return open_filename(std::move(filename), std::move(format), flags, 0);
}

Task<Result<NodePtr>> Opener::open(json options, OpenFlags flags) {
  return open_at(std::move(options), flags, 0);
}

Task<Result<NodePtr>> Opener::open_filename(std::string filename, std::string format, OpenFlags flags,
                                            unsigned depth) {
  CO_TRY_ASSIGN(json options, options_of_filename(filename));
  const bool is_json = filename.starts_with("json:");
  if (is_json) {
    // The name says all, unless the caller wants a format on top of a protocol.
    if (format.empty()) co_return co_await open_at(std::move(options), flags, depth);
    CO_TRY_ASSIGN(options, nest_options(options));
    if (!options.contains("driver") && options.contains("file")) options["driver"] = format;
    const std::string named = string_at(options, "driver");
    if (named == format) co_return co_await open_at(std::move(options), flags, depth);
    if (!named.empty()) CO_TRY(check_format_on_top(filename, named, format));
  }
  if (!format.empty()) {
    CO_TRY_ASSIGN(const Driver* driver, need_driver(format));
    if (driver->kind == DriverKind::kProtocol) {
      json protocol = named_driver(format, filename);
      co_return co_await open_at(std::move(protocol), flags, depth);
    }
  }
  json whole = with_file(std::move(options), format);
  co_return co_await open_at(std::move(whole), flags, depth);
}

Task<Result<NodePtr>> Opener::open_backing(std::string parent_file, std::string file, std::string format,
                                           OpenFlags flags, unsigned depth) {
  flags.writable = false;
  flags.writethrough = false;
  std::string path = backing_path(parent_file, file);
  auto opened = co_await open_filename(path, std::move(format), flags, depth + 1);
  if (opened) co_return opened;
  // The image that names the missing file and, in front, the one that was asked for; not all that lie
  // between.
  Error error = std::move(opened).error();
  if (depth != 0 && error.message().starts_with(kBackingFileOf)) co_return error;
  co_return std::move(error).with_context(std::string(kBackingFileOf) + parent_file);
}

Task<Result<NodePtr>> Opener::open_at(json options, OpenFlags flags, unsigned depth) {
  CO_TRY_ASSIGN(options, nest_options(options));
  if (!options.is_object())
    co_return Error(ErrorKind::kInvalidArgument, "a block node's options must be an object");
  if (flags.writable && wants_auto_read_only(options)) {
    json copy = options;
    auto opened = co_await open_once(std::move(copy), flags, depth);
    if (opened || opened.error().kind() != ErrorKind::kPermission) co_return opened;
    flags.writable = false;
  }
  co_return co_await open_once(std::move(options), flags, depth);
}

Task<Result<NodePtr>> Opener::open_once(json options, OpenFlags flags, unsigned depth) {
  if (depth > kMostImages)
    co_return Error(
        ErrorKind::kCorrupt,
        fmt::format("the chain of backing files has more than {} images; it may be a circle: look at it with "
                    "'ostler-img info', and give one image another backing file with 'ostler-img rebase -u'",
                    kMostImages));
  std::string driver_name = string_at(options, "driver");
  const auto below = options.find("file");
  std::string where =
      string_at(below != options.end() && below->is_object() ? *below : options, "filename", "block node");
  OptionReader reader(std::move(options), where);
  reader.take("driver");
  CO_TRY_ASSIGN(const auto node_name, reader.string("node-name"));
  CO_TRY_ASSIGN(const DetectZeroes detect_zeroes, apply_generic(reader, flags));
  OpenRequest request{std::move(reader), flags, *this, depth};

  NodePtr node;
  if (driver_name.empty()) {
    // The format is recognised by what the file holds.
    if (!request.has("file"))
      co_return Error(ErrorKind::kInvalidArgument, where + ": a block node needs a 'driver' or a 'file'");
    auto file = co_await request.open_child("file");
    if (!file) co_return std::move(file).error();
    auto format = co_await probe_format(*file, (*file)->filename());
    if (!format) co_return std::move(format).error();
    request.options.left()["file"] = (*file)->name();
    driver_name = *format;
    const Driver* driver = find_driver(driver_name);
    auto opened = co_await driver->open(std::move(request));
    if (!opened) co_return opened;
    node = *std::move(opened);
    // Else a guest could write the head of another format, and have that format's files opened the next time.
    if (auto* raw = dynamic_cast<RawNode*>(node.get())) raw->keep_format();
  } else {
    CO_TRY_ASSIGN(const Driver* driver, need_driver(driver_name));
    if (driver->open == nullptr)
      co_return Error(ErrorKind::kUnsupported,
                      fmt::format("'{}' can be created but not opened", driver_name));
    auto opened = co_await driver->open(std::move(request));
    if (!opened) co_return opened;
    node = *std::move(opened);
  }
  node->set_detect_zeroes(detect_zeroes);
  if (auto added = add(node, node_name.value_or("")); !added) {
    auto closed = co_await node->close();
    static_cast<void>(closed);
    co_return std::move(added).error();
  }
  co_return node;
}

Task<Result<NodePtr>> OpenRequest::open_child(std::string_view name) {
  return open_child(name, flags);
}

Task<Result<NodePtr>> OpenRequest::open_child(std::string_view name, OpenFlags child_flags) {
  const auto value = options.take(name);
  if (!value) co_return options.error(name, "is missing");
  if (value->is_string()) {
    NodePtr found = opener.find(value->get_ref<const std::string&>());
    if (!found)
      co_return Error(
          ErrorKind::kNotFound,
          fmt::format("{0}: option '{1}': there is no block node '{2}'; a file is meant by {1}.filename={2}",
                      options.where(), name, value->get_ref<const std::string&>()));
    if (child_flags.writable && found->read_only())
      co_return Error(ErrorKind::kPermission,
                      fmt::format("{}: option '{}': the node '{}' is read-only; say read-only=on here too",
                                  options.where(), name, found->name()));
    co_return found;
  }
  if (!value->is_object()) co_return options.error(name, "must be an object or the name of a node");
  json description = *value;
  const bool protocol_child = name == "file" || name == "data-file";
  if (protocol_child && !description.contains("driver") && description.contains("filename") &&
      description["filename"].is_string()) {
    // {"filename": …} alone: as a command line means it.
    auto named = options_of_filename(description["filename"].get<std::string>());
    if (!named) co_return std::move(named).error();
    json rest = std::move(description);
    rest.erase("filename");
    description = *std::move(named);
    description.update(rest);
  }
  co_return co_await opener.open_at(std::move(description), child_flags, depth + 1);
}

Task<Result<void>> close_chain(NodePtr node) {
  Result<void> result;
  while (node) {
    auto closed = co_await node->close();
    if (!closed && result) result = std::move(closed);
    // Children that only this node uses end with it.
    std::vector<NodePtr> below;
    for (const Edge* edge : node->children()) below.push_back(edge->node());
    const bool last = node.use_count() == 1;
    node = nullptr;
    if (!last) break;
    for (size_t i = 0; i + 1 < below.size(); ++i)
      if (below[i]->uses().empty()) {
        auto inner = co_await close_chain(std::move(below[i]));
        if (!inner && result) result = std::move(inner);
      }
    if (!below.empty() && below.back()->uses().empty()) node = std::move(below.back());
  }
  co_return result;
}

}  // namespace ostler::block
