#include "doctor/host.h"

#include <fcntl.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>

#include "base/fd.h"

namespace ostler::doctor {

std::optional<std::string> Host::text(std::string_view name) const {
  constexpr size_t kMost = 64 * 1024;
  const Fd fd(open(path(name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return std::nullopt;
  std::string out(kMost, '\0');
  size_t length = 0;
  while (length < kMost) {
    const ssize_t got = read(fd.get(), out.data() + length, kMost - length);
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  out.resize(length);
  return out;
}

std::optional<std::string> Host::line(std::string_view name) const {
  auto all = text(name);
  if (all) all->resize(std::min(all->size(), all->find('\n')));
  return all;
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

std::string Host::unseen(std::string_view name, std::string_view folder) const {
  if (access(path(name).c_str(), R_OK) == 0 || (!exists(name) && exists(folder))) return "";
  if (exists(folder)) return std::string(name) + " may not be read";
  const std::string_view mount = folder.substr(0, folder.find('/', 1));
  // A mount point without its file system is an empty folder, or none.
  if (entries(mount).empty()) return std::string(mount) + " is not mounted";
  return std::string(folder) + " is hidden";
}

std::string Host::where_to_write(std::string_view name) const {
  return access(path(name).c_str(), W_OK) != 0 && errno == EROFS ? "on the host: " : "";
}

bool Host::has_interface(const std::string& name) const {
  return !root_.empty() || if_nametoindex(name.c_str()) != 0;
}

int Host::open_error(std::string_view name) const {
  const Fd fd(open(path(name).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  return fd ? 0 : errno;
}

}  // namespace ostler::doctor
