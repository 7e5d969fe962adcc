#include "block/new_files.h"

#include <unistd.h>

#include "block/driver.h"

namespace ostler::block {

using nlohmann::json;

NewFiles::NewFiles(Opener& opener, const Driver& protocol, json description, json options, OpenFlags flags)
    : opener_(opener),
      protocol_(protocol),
      description_(std::move(description)),
      options_(std::move(options)),
      flags_(flags) {
  flags_.writable = true;
}

Task<Result<NodePtr>> NewFiles::make_own(uint64_t size, std::string preallocation) {
  const std::string name = string_at(description_, "filename");
  json options = json::object();
  options["size"] = size;
  options["filename"] = name;
  options["preallocation"] = preallocation;
  options.update(options_);
  OptionReader reader(std::move(options), name);
  CreateRequest request{std::move(reader), name, flags_, opener_, *this, nullptr};
  CO_TRY(co_await protocol_.create(std::move(request)));
  json description = description_;
  auto opened = co_await opener_.open_at(std::move(description), flags_, 0);
  if (!opened) co_return std::move(opened).error();
  own_ = *std::move(opened);
  co_return own_;
}

Task<Result<void>> NewFiles::make_other(std::string path, uint64_t size) {
  json options = json::object();
  options["size"] = size;
  options["filename"] = path;
  OptionReader reader(std::move(options), path);
  CreateRequest request{std::move(reader), path, flags_, opener_, *this, nullptr};
  co_return co_await find_driver("file")->create(std::move(request));
}

Task<Result<void>> NewFiles::finish(Result<void> result) {
  if (own_) {
    NodePtr own = std::move(own_);
    own_ = nullptr;
    auto closed = co_await close_chain(std::move(own));
    if (result && !closed) result = std::move(closed);
  }
  if (!result)
    for (const std::string& path : made_) unlink(path.c_str());
  made_.clear();
  co_return result;
}

}  // namespace ostler::block
