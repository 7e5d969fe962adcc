// "did you mean": the known name nearest to a mistyped one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ostler {

// The candidate with the smallest edit distance, when it is near enough to be a typing mistake; else empty.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

// "; did you mean 'x'?" or "", ready to be appended to a sentence.
std::string suggestion(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace ostler
