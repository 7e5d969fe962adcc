#include "net/open.h"

#include <algorithm>
#include <iterator>

#include "net/user_backend.h"
#include "net/user_options.h"

namespace ostler::net {
namespace {

using Made = Result<std::unique_ptr<Backend>>;

// `Own::create(loop, options)` with the options that `parse` reads.
template <class Own, class Options>
Made make(event::Loop& loop, const config::PropertyTable<Options>& table,
          std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const Options options, table.parse(values));
  TRY_ASSIGN(auto backend, Own::create(loop, options));
  return std::unique_ptr<Backend>(std::move(backend));
}

struct Type {
  std::string_view name;
  Made (*open)(event::Loop&, std::span<const config::KeyValue>);
};

constexpr Type kTypes[] = {
    {"user",
     [](event::Loop& loop, std::span<const config::KeyValue> values) {
       return make<UserBackend>(loop, user_properties(), values);
     }},
};

}  // namespace

std::vector<std::string_view> backend_types() {
  std::vector<std::string_view> names;
  std::transform(std::begin(kTypes), std::end(kTypes), std::back_inserter(names),
                 [](const Type& type) { return type.name; });
  return names;
}

Made open(event::Loop& loop, std::string_view type, std::span<const config::KeyValue> options) {
  for (const Type& each : kTypes)
    if (each.name == type) return each.open(loop, options);
  return Error(ErrorKind::kUnsupported,
               "networks of type '" + std::string(type) + "' are not available in this version");
}

}  // namespace ostler::net
