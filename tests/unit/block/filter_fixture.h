// What the tests of filters share: nodes for below them, and requests that are under way when something else
// comes.
#pragma once

#include <memory>

#include "block/client.h"
#include "block/filters/fault_node.h"
#include "qcow2_fixture.h"

namespace ostler::block::test {

class FilterTest : public Qcow2Test {
 protected:
  nlohmann::json file_options(const std::string& name) const {
    return {{"driver", "file"}, {"filename", path(name)}};
  }
  // The second request waits, and each further one 200 ms more.
  static nlohmann::json slow(nlohmann::json below) {
    return {{"driver", "throttle"},
            {"throttle-group", "filter-test"},
            {"limits", {{"iops-total", 5}}},
            {"file", std::move(below)}};
  }
  // Requests to `below` can be made to fail and are counted: faults().
  static nlohmann::json with_faults(nlohmann::json below) {
    return {{"driver", "blkdebug"}, {"node-name", "faults"}, {"image", std::move(below)}};
  }
  std::shared_ptr<FaultNode> faults() { return std::dynamic_pointer_cast<FaultNode>(opener.find("faults")); }
  static bool others_may_write(const NodePtr& node) {
    return static_cast<bool>(
        Client::attach(node, "other", {.used = kPermissionWrite, .shared = kPermissionsAll}));
  }
  // The message of the error; "" if it opens.
  std::string options_error(nlohmann::json options) {
    OpenFlags flags;
    flags.writable = true;
    const auto node = context.run_until(opener.open(std::move(options), flags));
    return node ? "" : node.error().message();
  }
};

inline Task<int> noted(Task<int> request, int& result) {
  result = co_await request;
  co_return 0;
}

// Requests side by side and, when each has begun, cancel(). What each gave.
inline Task<std::vector<int>> run_and_cancel(NodePtr node, std::vector<Task<int>> requests) {
  std::vector<int> results(requests.size(), 1);
  TaskGroup group(static_cast<unsigned>(requests.size()));
  for (size_t i = 0; i < requests.size(); ++i)
    co_await group.start(noted(std::move(requests[i]), results[i]));
  node->cancel();
  co_await group.wait();
  co_return results;
}

// For run_and_cancel(): writes of 512 bytes, `distance` apart.
inline std::vector<Task<int>> small_writes(Node& node, unsigned count, uint64_t distance) {
  static const std::string bytes(512, 'c');
  std::vector<Task<int>> requests;
  for (unsigned i = 0; i < count; ++i)
    requests.push_back(write_bytes(node, i * distance, bytes.data(), bytes.size()));
  return requests;
}

// Two requests side by side, the first of which begins first. The first error.
inline Task<int> run_both(Task<int> first, Task<int> second) {
  TaskGroup group;
  co_await group.start(std::move(first));
  co_await group.start(std::move(second));
  co_return co_await group.wait();
}

// A truncate() as a request, for those.
inline Task<int> shrink(Node& node, uint64_t size) {
  const auto result = co_await node.truncate(size, Preallocation::kOff);
  co_return result ? 0 : -EIO;
}

inline Task<int> write_by(Client& user, uint64_t offset, const std::string& bytes, unsigned& done) {
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  const int error = co_await user.write(offset, Buffers(&piece, 1));
  ++done;
  co_return error;
}

// `count` writes side by side, one behind the other, and a drain of `below`: -EBUSY if it did not wait for
// them.
inline Task<int> write_and_drain(std::shared_ptr<Client> user, NodePtr below, std::string bytes,
                                 unsigned count) {
  unsigned done = 0;
  TaskGroup group(count);
  for (unsigned i = 0; i < count; ++i) {
    const int error = co_await group.start(write_by(*user, i * bytes.size(), bytes, done));
    if (error != 0) co_return error;
  }
  {
    const Drained drained = co_await Drained::begin(below);
    if (done != count) co_return -EBUSY;
  }
  co_return co_await group.wait();
}

}  // namespace ostler::block::test
