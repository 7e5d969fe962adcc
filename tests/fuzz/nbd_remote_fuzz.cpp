// Names of NBD servers as a backing file may have them, the Content-Range of a web server, and what an NBD
// server says before TLS: a name that is taken says the same when it is written and read again.
#include <cstdlib>

#include "block/http/http_node.h"
#include "block/nbd/protocol.h"
#include "block/nbd/remote.h"
#include "block/nbd/start_tls.h"

namespace {

void begin_tls(std::string_view bytes) {
  ostler::block::nbd::StartTls start;
  while (start.wanted() != 0 && start.wanted() <= bytes.size()) {
    const size_t wanted = start.wanted();
    if (!start.take(bytes.substr(0, wanted))) return;
    bytes.remove_prefix(wanted);
    if (start.wanted() > ostler::block::nbd::kMostName) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  uint64_t first = 0, last = 0, whole = 0;
  if (ostler::block::http::parse_content_range(text, first, last, whole) && last >= whole && whole != 0)
    std::abort();
  begin_tls(text);
  const auto remote = ostler::block::nbd::parse_remote(text);
  if (!remote || !text.starts_with("nbd")) return 0;
  const std::string uri = remote->uri();
  const auto again = ostler::block::nbd::parse_remote(uri);
  if (!again || again->uri() != uri || again->export_name != remote->export_name) std::abort();
  return 0;
}
