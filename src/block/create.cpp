// Creating images (Opener::create): the file of the protocol first, the format into it.
#include <fmt/format.h>

#include "block/driver.h"

namespace ostler::block {

using nlohmann::json;

namespace {

// Brace lists stay outside coroutines: GCC 12 does not compile them there.
json empty_file(const json& protocol, const std::string& filename) {
  return json{{"size", 0}, {"filename", string_at(protocol, "filename", filename)}};
}

}  // namespace

Task<Result<void>> Opener::create(std::string filename, std::string format, json options, OpenFlags flags) {
  CO_TRY_ASSIGN(const Driver* driver, need_driver(format));
  if (driver->create == nullptr)
    co_return Error(ErrorKind::kUnsupported, fmt::format("images of '{}' cannot be created", format));
  OptionReader reader(std::move(options), filename);
  if (driver->kind == DriverKind::kProtocol) {
    CreateRequest request{std::move(reader), filename, nullptr, flags, *this, nullptr};
    co_return co_await driver->create(std::move(request));
  }

  json& values = reader.left();
  NodePtr backing;
  if (const auto file = values.find("backing_file"); file != values.end() && file->is_string()) {
    const auto backing_file = file->get<std::string>();
    const std::string backing_format = string_at(values, "backing_fmt");
    if (backing_file.empty()) {
      values.erase("backing_file");
    } else if (!flags.no_backing || !values.contains("size")) {
      OpenFlags reading = flags;
      reading.no_backing = false;
      reading.direct = false;
      auto opened = co_await open_backing(filename, backing_file, backing_format, reading, 0);
      if (!opened) co_return std::move(opened).error();
      backing = *std::move(opened);
      if (!values.contains("size")) values["size"] = backing->size();
    }
  }
  CO_TRY_ASSIGN(const json protocol, options_of_filename(filename));
  CO_TRY_ASSIGN(const Driver* protocol_driver, need_driver(string_at(protocol, "driver", "file")));
  if (protocol_driver->create == nullptr)
    co_return Error(ErrorKind::kUnsupported,
                    fmt::format("{}: images cannot be created by '{}'", filename, protocol_driver->name));
  OptionReader file_options(empty_file(protocol, filename), filename);
  CreateRequest file_request{std::move(file_options), filename, nullptr, flags, *this, nullptr};
  auto made = co_await protocol_driver->create(std::move(file_request));
  if (!made) co_return made;
  flags.writable = true;
  auto file = co_await open_at(protocol, flags, 0);
  if (!file) co_return std::move(file).error();
  NodePtr node = *std::move(file);
  CreateRequest request{std::move(reader), filename, node, flags, *this, backing};
  auto result = co_await driver->create(std::move(request));
  auto closed = co_await close_chain(std::move(node));
  if (backing) {
    auto ignored = co_await close_chain(std::move(backing));
    static_cast<void>(ignored);
  }
  if (!result) co_return result;
  co_return closed;
}

}  // namespace ostler::block
