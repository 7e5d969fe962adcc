// The commands of the image tool. Each gets the words behind its name and gives the exit status; an Error is
// one sentence for standard error.
#pragma once

#include <span>
#include <string>

#include "img/tool.h"

namespace ostler::img {

using Words = std::span<const std::string>;

Result<int> create(Tool& tool, Words words);
Result<int> info(Tool& tool, Words words);
Result<int> check(Tool& tool, Words words);
Result<int> convert(Tool& tool, Words words);
Result<int> compare(Tool& tool, Words words);
Result<int> commit(Tool& tool, Words words);
Result<int> rebase(Tool& tool, Words words);
Result<int> resize(Tool& tool, Words words);
Result<int> snapshot(Tool& tool, Words words);
Result<int> map(Tool& tool, Words words);
Result<int> measure(Tool& tool, Words words);
Result<int> amend(Tool& tool, Words words);
Result<int> bench(Tool& tool, Words words);
Result<int> dd(Tool& tool, Words words);
Result<int> bitmap(Tool& tool, Words words);
// Besides qemu-img's: what qemu-nbd does.
Result<int> serve(Tool& tool, Words words);
// Of `ostler image` only.
Result<int> shrink(Tool& tool, Words words);
Result<int> import(Tool& tool, Words words);

}  // namespace ostler::img
