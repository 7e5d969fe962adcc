#include "block/formats/vmdk/vmdk_descriptor.h"

#include <fmt/format.h>

#include <charconv>

namespace ostler::block {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// The next line, without its end; `text` loses it.
std::string_view next_line(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

std::string_view next_word(std::string_view& text) {
  text = trimmed(text);
  const size_t end = text.find_first_of(" \t");
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end);
  return word;
}

template <class T>
bool parse_number(std::string_view text, T& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.begin(), text.end(), value, base);
  return error == std::errc() && end == text.end() && !text.empty();
}

std::string unquoted(std::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return std::string(text);
}

// RW 4192256 SPARSE "test-s001.vmdk" [offset]
Result<VmdkDescriptor::Extent> parse_extent(std::string_view line, const Node& file) {
  const auto wrong = [&] {
    return damaged(file, "vmdk", fmt::format("the extent line '{}' cannot be understood", line));
  };
  std::string_view rest = line;
  VmdkDescriptor::Extent extent;
  extent.access = next_word(rest);
  if (!parse_number(next_word(rest), extent.sectors)) return wrong();
  extent.type = next_word(rest);
  rest = trimmed(rest);
  if (!rest.empty() && rest.front() == '"') {
    const size_t end = rest.find('"', 1);
    if (end == std::string_view::npos) return wrong();
    extent.filename = rest.substr(1, end - 1);
    rest = trimmed(rest.substr(end + 1));
  }
  const std::string_view offset = next_word(rest);
  if (!offset.empty() && !parse_number(offset, extent.offset)) return wrong();
  if (extent.sectors == 0 || extent.sectors > VmdkDescriptor::kMostSectors ||
      extent.offset > VmdkDescriptor::kMostSectors)
    return damaged(file, "vmdk", fmt::format("the extent line '{}' has an impossible size or offset", line));
  return extent;
}

bool is_extent_line(std::string_view line) {
  return line.starts_with("RW ") || line.starts_with("RDONLY ") || line.starts_with("NOACCESS ");
}

}  // namespace

// Comments and empty lines may come before the version.
bool VmdkDescriptor::recognised(std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = trimmed(next_line(text));
    if (line.empty() || line.front() == '#') continue;
    return line == "version=1" || line == "version=2" || line == "version=3";
  }
  return false;
}

Result<VmdkDescriptor> VmdkDescriptor::parse(std::string_view text, const Node& file) {
  text = text.substr(0, text.find('\0'));
  VmdkDescriptor result;
  while (!text.empty()) {
    const std::string_view line = trimmed(next_line(text));
    if (line.empty() || line.front() == '#') continue;
    if (is_extent_line(line)) {
      if (result.extents.size() == kMostExtents)
        return cannot(file, "vmdk", fmt::format("it has more than {} extents", kMostExtents));
      TRY_ASSIGN(Extent extent, parse_extent(line, file));
      result.extents.push_back(std::move(extent));
      continue;
    }
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view key = trimmed(line.substr(0, equals)), value = trimmed(line.substr(equals + 1));
    if (key == "CID" && !parse_number(value, result.cid, 16))
      return damaged(file, "vmdk", fmt::format("its CID is '{}'", value));
    if (key == "parentCID" && !parse_number(value, result.parent_cid, 16))
      return damaged(file, "vmdk", fmt::format("its parentCID is '{}'", value));
    if (key == "createType") result.create_type = unquoted(value);
    if (key == "parentFileNameHint") result.parent_hint = unquoted(value);
  }
  if (result.create_type.empty()) return damaged(file, "vmdk", "its descriptor has no createType");
  return result;
}

std::string VmdkDescriptor::with_cid(const std::string& text, uint32_t cid) {
  size_t at = text.starts_with("CID=") ? 0 : text.find("\nCID=");
  if (at == std::string::npos) return text;
  if (text[at] == '\n') ++at;
  at += 4;
  const size_t end = text.find_first_of("\r\n", at);
  return text.substr(0, at) + fmt::format("{:08x}", cid) + (end == std::string::npos ? "" : text.substr(end));
}

}  // namespace ostler::block
