#include "base/lazy_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace ostler {
namespace {

std::mutex loading;

Error missing(const LazyLibrary& library) {
  const char* const reason = dlerror();
  return Error(ErrorKind::kNotFound,
               fmt::format("the shared library {} cannot be used ({}); install the package '{}'",
                           library.soname, reason != nullptr ? reason : "no reason told", library.package));
}

}  // namespace

Result<void> LazyLibrary::load() {
  const std::lock_guard lock(loading);
  // It stays: its threads and exit handlers may run until the end.
  void* const handle = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return missing(*this);
  std::vector<void*> found;
  for (size_t i = 0; i < count; ++i) {
    void* const function = dlsym(handle, names[i]);
    if (function == nullptr) return missing(*this);
    found.push_back(function);
  }
  // Another thread may be calling by the table.
  for (size_t i = 0; i < count; ++i) std::atomic_ref(functions[i]).store(found[i], std::memory_order_release);
  return {};
}

}  // namespace ostler

// From the jumps of cmake/lazy_library.S.in: whoever calls before load() has nobody to tell.
extern "C" void* ostler_first_lazy_call(ostler::LazyLibrary* library, uint32_t number) {
  const auto loaded = library->load();
  if (!loaded) {
    std::fprintf(stderr, "ostler: %s\n", loaded.error().message().c_str());
    std::exit(1);
  }
  return std::atomic_ref(library->functions[number]).load(std::memory_order_acquire);
}
