// Shared libraries that are loaded when they are first needed (cmake/LazyLibrary.cmake).
//
// Whoever opens what needs one calls load() and tells the person what is missing. The library's functions are
// then called as usual. Any thread.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace ostler {

struct LazyLibrary {
  const char* soname;
  const char* package;  // Debian's, for the cure
  const char* const* names;
  void** functions;  // where calls go: to the loader, and from load() on to the library
  size_t count;

  // Once, whoever comes first. Error: the library or one of its functions is missing; the sentence names the
  // package that has it.
  Result<void> load();
};

}  // namespace ostler

// By name of the CMake call.
extern "C" {
extern ostler::LazyLibrary ostler_lazy_curl;
extern ostler::LazyLibrary ostler_lazy_gcrypt;
extern ostler::LazyLibrary ostler_lazy_gnutls;
extern ostler::LazyLibrary ostler_lazy_nbd;
extern ostler::LazyLibrary ostler_lazy_slirp;
}
