// A guest's requests to the 9P server, over a real folder: no byte stream makes it crash, answer more than it
// may, keep what a guest has left, or touch what lies beside the folder.
#include <cstdlib>
#include <span>

#include "fs9p/server.h"
#include "rigs/p9_folder.h"
#include "rigs/p9_requests.h"

namespace {

using namespace ostler;

void expect(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

// Fid 0 is the root at first. The first byte chooses the security model. An even byte before a request makes
// it from the following choices, an odd one takes as many bytes as they are.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static rigs::P9Folder folder;
  folder.refill();
  std::span<const uint8_t> left(data, size);
  const auto byte = [&]() -> uint8_t {
    if (left.empty()) return 0;
    const uint8_t value = left.front();
    left = left.subspan(1);
    return value;
  };
  const auto share = folder.open(byte() % 2 == 0 ? fs9p::Security::kNone : fs9p::Security::kMapped);
  {
    fs9p::Server server(share);
    (void)server.answer(rigs::p9_version(), 4096);
    (void)server.answer(rigs::p9_attach(), 4096);
    rigs::P9Requests requests(byte);
    for (unsigned most = 200; most != 0 && !left.empty(); --most) {
      const uint8_t kind = byte();
      std::vector<std::byte> message;
      if (kind % 2 == 0) {
        message = requests.next();
      } else {
        const auto bytes = std::as_bytes(left.first(std::min<size_t>(kind, left.size())));
        message.assign(bytes.begin(), bytes.end());
        left = left.subspan(bytes.size());
      }
      const size_t room = kind % 8 == 2 ? fs9p::kErrorBytes : 4096;
      const auto reply = server.answer(message, room);
      expect(reply.size() <= room && reply.size() >= fs9p::kHeaderBytes);
      expect(load_le<uint32_t>(reply.data()) == reply.size());
      expect(share->fids() <= 200);
    }
  }
  expect(share->fids() == 0);
  expect(folder.untouched());
  return 0;
}
