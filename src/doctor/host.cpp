#include "doctor/host.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>

#include "base/fd.h"

namespace ostler::doctor {

std::optional<std::string> Host::line(std::string_view name) const {
  const Fd fd(open(path(name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return std::nullopt;
  char buffer[4096];
  const ssize_t got = read(fd.get(), buffer, sizeof buffer);
  if (got < 0) return std::nullopt;
  const std::string_view text(buffer, static_cast<size_t>(got));
  return std::string(text.substr(0, text.find('\n')));
}

std::optional<uint64_t> Host::number(std::string_view name) const {
  const auto text = line(name);
  if (!text) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return value;
}

bool Host::exists(std::string_view name) const {
  return access(path(name).c_str(), F_OK) == 0;
}

std::vector<std::string> Host::entries(std::string_view folder) const {
  std::vector<std::string> out;
  std::error_code error;
  for (std::filesystem::directory_iterator each(path(folder), error), end; !error && each != end;
       each.increment(error))
    out.push_back(each->path().filename().string());
  std::ranges::sort(out);
  return out;
}

int Host::open_error(std::string_view name) const {
  const Fd fd(open(path(name).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  return fd ? 0 : errno;
}

}  // namespace ostler::doctor
