// Creating images (Opener::create): the format reads its options and has its file made (NewFiles).
#include <fmt/format.h>

#include <algorithm>

#include "block/chain_files.h"
#include "block/driver.h"
#include "block/file_name.h"

namespace ostler::block {

using nlohmann::json;

json take_file_options(json& options, const Driver& format, const Driver& protocol) {
  json taken = json::object();
  for (const OptionSpec& each : protocol.create_options) {
    const std::string name(each.name);
    const bool of_format =
        std::ranges::find(format.create_options, each.name, &OptionSpec::name) != format.create_options.end();
    if (of_format || !options.contains(name)) continue;
    taken[name] = options[name];
    options.erase(name);
  }
  return taken;
}

Task<Result<void>> Opener::create(std::string filename, std::string format, json options, OpenFlags flags) {
  CO_TRY_ASSIGN(const Driver* driver, need_driver(format));
  if (driver->create == nullptr)
    co_return Error(ErrorKind::kUnsupported, fmt::format("images of '{}' cannot be created", format));
  CO_TRY(check_file_name(filename));
  const bool is_protocol = driver->kind == DriverKind::kProtocol;
  CO_TRY_ASSIGN(json description, options_of_filename(filename));
  CO_TRY_ASSIGN(const Driver* protocol,
                need_driver(is_protocol ? format : string_at(description, "driver", "file")));
  if (protocol->create == nullptr || protocol->kind != DriverKind::kProtocol)
    co_return Error(ErrorKind::kUnsupported,
                    fmt::format("{}: images cannot be created by '{}'", filename, protocol->name));
  NodePtr backing;
  if (const auto file = options.find("backing_file");
      !is_protocol && file != options.end() && file->is_string()) {
    const auto backing_file = file->get<std::string>();
    const std::string backing_format = string_at(options, "backing_fmt");
    if (backing_file.empty()) {
      options.erase("backing_file");
    } else if (!flags.no_backing || !options.contains("size")) {
      CO_TRY(check_file_name(backing_file));
      OpenFlags reading = flags;
      reading.no_backing = false;
      reading.direct = false;
      reading.force_share = true;  // its size and identity alone are looked at
      auto opened = co_await open_backing(filename, backing_file, backing_format, reading, 0);
      if (!opened) co_return std::move(opened).error();
      backing = *std::move(opened);
      if (!find_file_in_chain(*backing, string_at(description, "filename")).empty()) {
        auto ignored = co_await close_chain(std::move(backing));
        static_cast<void>(ignored);
        co_return Error(
            ErrorKind::kInvalidArgument,
            fmt::format("{}: it is in the chain of its own backing file {}; name another new file", filename,
                        backing_file));
      }
      if (!options.contains("size")) options["size"] = backing->size();
    }
  }
  json file_options = take_file_options(options, *driver, *protocol);
  OptionReader reader(std::move(options), filename);
  NewFiles files(*this, *protocol, std::move(description), std::move(file_options), flags);
  flags.writable = true;
  CreateRequest request{std::move(reader), filename, flags, *this, files, backing};
  auto result = co_await driver->create(std::move(request));
  result = co_await files.finish(std::move(result));
  if (backing) {
    auto ignored = co_await close_chain(std::move(backing));
    static_cast<void>(ignored);
  }
  co_return result;
}

}  // namespace ostler::block
