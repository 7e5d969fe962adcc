#include "block/http/http_node.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/lazy_library.h"
#include "block/io_context.h"

namespace ostler::block::http {
namespace {

constexpr long kPartialContent = 206, kRangeNotSatisfiable = 416;

// Once for the process, before any thread uses it.
bool start_curl() {
  static const bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return started;
}

bool take_number(std::string_view& text, uint64_t& value) {
  const auto [end, status] = std::from_chars(text.begin(), text.end(), value);
  if (status != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.begin()));
  return true;
}
bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

bool parse_content_range(std::string_view value, uint64_t& first, uint64_t& last, uint64_t& size) {
  first = last = size = 0;
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\r' || value.back() == '\n'))
    value.remove_suffix(1);
  if (!take(value, "bytes ")) return false;
  if (!take(value, "*/")) {
    if (!take_number(value, first) || !take(value, "-") || !take_number(value, last) || !take(value, "/"))
      return false;
    if (last < first) return false;
  }
  return take_number(value, size) && value.empty() && (size == 0 || last < size) && size < uint64_t{1} << 62;
}

// One request and what came of it.
struct HttpNode::Transfer {
  HttpNode& node;
  uint64_t offset;
  uint64_t wanted;
  unsigned cancels;
  std::vector<std::byte> bytes{};
  long status = 0;
  bool has_range = false;
  uint64_t first = 0, last = 0, size = 0;
  std::string problem{};

  static size_t on_body(char* data, size_t, size_t count, void* user) {
    auto& self = *static_cast<Transfer*>(user);
    // Nobody needs more than was asked for: a whole file, or a page that explains an error.
    if (count > self.wanted - self.bytes.size()) return 0;
    const auto* from = reinterpret_cast<const std::byte*>(data);
    self.bytes.insert(self.bytes.end(), from, from + count);
    return count;
  }
  static size_t on_header(char* data, size_t, size_t count, void* user) {
    auto& self = *static_cast<Transfer*>(user);
    constexpr std::string_view kName = "content-range:";
    const std::string_view line(data, count);
    if (line.starts_with("HTTP/")) self.has_range = false;  // of another reply, after a redirection
    if (line.size() > kName.size() &&
        std::equal(kName.begin(), kName.end(), line.begin(),
                   [](char a, char b) { return a == ((b >= 'A' && b <= 'Z') ? b + 32 : b); }))
      self.has_range = parse_content_range(line.substr(kName.size()), self.first, self.last, self.size);
    return count;
  }
  static int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    const auto& self = *static_cast<const Transfer*>(user);
    return self.node.cancels_.load() != self.cancels ? 1 : 0;
  }
};

HttpNode::HttpNode(Settings settings, std::string driver)
    : Node(std::move(driver)), settings_(std::move(settings)) {}

HttpNode::~HttpNode() {
  for (void* handle : idle_) curl_easy_cleanup(handle);
}

void* HttpNode::take_handle() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      void* const handle = idle_.back();
      idle_.pop_back();
      return handle;
    }
  }
  return curl_easy_init();
}

void HttpNode::give_handle(void* handle) {
  {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMostIdle) {
      idle_.push_back(handle);
      return;
    }
  }
  curl_easy_cleanup(handle);
}

// Waits. 0 or a negative errno; `problem` says more.
int HttpNode::fetch(Transfer& transfer) {
  CURL* const curl = take_handle();
  if (curl == nullptr) return -ENOMEM;
  char text[CURL_ERROR_SIZE] = "";
  const std::string range = fmt::format("{}-{}", transfer.offset, transfer.offset + transfer.wanted - 1);
  const auto seconds = static_cast<long>(settings_.timeout);
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_URL, settings_.url.c_str());
  curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, driver() == "https" ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 8L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, text);
  // A server that sends nothing, or next to nothing, does not hold a request for ever.
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, seconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, seconds);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, Transfer::on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, settings_.verify ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, settings_.verify ? 2L : 0L);
  if (!settings_.cookie.empty()) curl_easy_setopt(curl, CURLOPT_COOKIE, settings_.cookie.c_str());
  if (!settings_.username.empty()) {
    curl_easy_setopt(curl, CURLOPT_USERNAME, settings_.username.c_str());
    curl_easy_setopt(curl, CURLOPT_PASSWORD, settings_.password.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_ANY);
  }
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &transfer.status);
  give_handle(curl);
  const bool refused = code == CURLE_WRITE_ERROR && transfer.status != kPartialContent;
  if (code == CURLE_OK || refused) return 0;
  transfer.problem = text[0] != '\0' ? text : curl_easy_strerror(code);
  if (cancels_.load() != transfer.cancels) return -ECANCELED;
  return code == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -EIO;
}

Result<void> HttpNode::find_size() {
  Transfer transfer{*this, 0, 1, cancels_.load()};
  const int error = fetch(transfer);
  const std::string& url = settings_.url;
  if (error != 0) return Error(ErrorKind::kIo, url + ": " + transfer.problem, -error);
  if (transfer.status == kRangeNotSatisfiable && transfer.has_range && transfer.size == 0) return {};
  if (transfer.status == 200)
    return Error(ErrorKind::kUnsupported,
                 url + ": the server gives whole files only, no ranges of bytes; download the file first");
  if (transfer.status != kPartialContent)
    return Error(transfer.status == 404 ? ErrorKind::kNotFound : ErrorKind::kIo,
                 fmt::format("{}: the server answers with status {}", url, transfer.status));
  if (!transfer.has_range || transfer.size == 0)
    return Error(ErrorKind::kUnsupported, url + ": the server does not tell how large the file is");
  size_ = transfer.size;
  return {};
}

Result<std::shared_ptr<HttpNode>> HttpNode::open(Settings settings, std::string driver) {
  TRY(ostler_lazy_curl.load());
  if (!start_curl()) return Error(ErrorKind::kNoResource, "libcurl cannot be started");
  auto node = std::make_shared<HttpNode>(std::move(settings), std::move(driver));
  TRY(node->find_size());
  return node;
}

bool HttpNode::look_up(uint64_t offset, std::byte* to, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  for (auto run = runs_.begin(); run != runs_.end(); ++run) {
    const auto& content = *run->bytes;
    if (offset < run->offset || offset - run->offset > content.size()) continue;
    const uint64_t at = offset - run->offset;
    if (bytes > content.size() - at) continue;
    std::memcpy(to, content.data() + at, bytes);
    runs_.splice(runs_.begin(), runs_, run);
    return true;
  }
  return false;
}

Task<int> HttpNode::read(uint64_t offset, Buffers to) {
  const uint64_t wanted = total_bytes(to);
  const uint64_t bytes = offset >= size_ ? 0 : std::min(wanted, size_ - offset);
  if (bytes != wanted) fill_zeroes(to, bytes);
  const AlignedBuffer buffer(std::max<uint64_t>(bytes, 1));
  if (!buffer) co_return -ENOMEM;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t piece = std::min(bytes - done, kMostPiece);
    if (!look_up(offset + done, buffer.data() + done, piece)) {
      const uint64_t at = offset + done;
      const uint64_t ahead =
          std::min(std::max(piece, std::min(settings_.read_ahead, kMostPiece)), size_ - at);
      Transfer transfer{*this, at, ahead, cancels_.load()};
      int error = 0;
      co_await IoContext::current()->offload([&] { error = fetch(transfer); });
      if (error != 0) co_return error;
      // Another file, or none, than when it was opened.
      if (transfer.status != kPartialContent || !transfer.has_range || transfer.size != size_ ||
          transfer.first != at || transfer.bytes.size() != ahead)
        co_return -EIO;
      std::memcpy(buffer.data() + done, transfer.bytes.data(), piece);
      if (ahead > piece) {
        const std::lock_guard lock(mutex_);
        runs_.push_front({at, std::make_shared<const std::vector<std::byte>>(std::move(transfer.bytes))});
        if (runs_.size() > kMostRuns) runs_.pop_back();
      }
    }
    done += piece;
  }
  if (bytes != 0) {
    const Slice inside(to, 0, bytes);
    copy_to(inside, buffer.data());
  }
  co_return 0;
}

nlohmann::json HttpNode::options() const {
  nlohmann::json result = {{"driver", driver()}, {"url", settings_.url}, {"readahead", settings_.read_ahead}};
  if (!settings_.verify) result["sslverify"] = false;
  if (!settings_.username.empty()) result["username"] = settings_.username;
  return result;
}

}  // namespace ostler::block::http
