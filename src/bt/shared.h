// What the vCPUs of a machine share of the translator.
#pragma once

#include <cstddef>
#include <memory>

#include "base/result.h"
#include "bt/code_cache.h"
#include "bt/options.h"
#include "bt/routines.h"
#include "bt/translator.h"

namespace ostler::bt {

class Shared {
 public:
  // Outlived by `pages`, outlives the runners.
  static Result<std::unique_ptr<Shared>> create(mmu::CodePages& pages, const Options& options);
  ~Shared();

  const Options options;
  mmu::CodePages& pages;
  std::unique_ptr<CodeCache> cache;
  Routines routines;
  std::unique_ptr<Translator> translator;  // with the cache's mutex held

 private:
  Shared(mmu::CodePages& code_pages, const Options& o) : options(o), pages(code_pages) {}
};

}  // namespace ostler::bt
