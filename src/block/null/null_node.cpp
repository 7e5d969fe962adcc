#include "block/null/null_node.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "block/driver.h"

namespace ostler::block {

NullNode::NullNode(uint64_t size, bool read_only, bool read_zeroes, uint64_t latency_nanoseconds,
                   std::string driver)
    : Node(std::move(driver)),
      size_(size),
      read_only_(read_only),
      read_zeroes_(read_zeroes),
      latency_(latency_nanoseconds) {}

Task<int> NullNode::answer() {
  if (latency_ != 0) {
    IoContext& context = *IoContext::current();
    co_await context.sleep_until(IoContext::now() + latency_);
  }
  co_return 0;
}

Task<int> NullNode::read(uint64_t, Buffers to) {
  if (read_zeroes_) fill_zeroes(to);
  return answer();
}

Task<int> NullNode::write(uint64_t, Buffers) {
  return answer();
}

Task<int> NullNode::flush() {
  return answer();
}

Task<int> NullNode::write_zeroes(uint64_t, uint64_t, ZeroFlags) {
  return answer();
}

Task<int> NullNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail, BlockStatus& status) {
  status = {.bytes = bytes,
            .data = !read_zeroes_,
            .zero = read_zeroes_,
            .allocated = true,
            .offset_valid = true,
            .offset = offset,
            .file = this};
  co_return 0;
}

int NullNode::try_read(uint64_t, Buffers to) {
  if (latency_ != 0) return -EAGAIN;
  if (read_zeroes_) fill_zeroes(to);
  return 0;
}

int NullNode::try_write(uint64_t, Buffers) {
  return latency_ != 0 ? -EAGAIN : 0;
}

nlohmann::json NullNode::options() const {
  return {{"driver", driver()}, {"size", size_}};
}

namespace {

Task<Result<NodePtr>> open_null(OpenRequest request, std::string driver) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto filename, options.string("filename"));
  if (filename && *filename != driver + "://")
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("'{}' has more than the name {}://; settings are options: driver={},size=1G",
                                *filename, driver, driver));
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  CO_TRY_ASSIGN(const auto latency, options.number("latency-ns"));
  CO_TRY_ASSIGN(const auto zeroes, options.boolean("read-zeroes"));
  CO_TRY(options.finish());
  co_return NodePtr(std::make_shared<NullNode>(size.value_or(uint64_t{1} << 30), !request.flags.writable,
                                               zeroes.value_or(true), latency.value_or(0),
                                               std::move(driver)));
}

Task<Result<NodePtr>> open_co(OpenRequest request) {
  return open_null(std::move(request), "null-co");
}
Task<Result<NodePtr>> open_aio(OpenRequest request) {
  return open_null(std::move(request), "null-aio");
}

}  // namespace

extern const Driver kNullCoDriver, kNullAioDriver;
const Driver kNullCoDriver = {
    .name = "null-co", .kind = DriverKind::kProtocol, .open = open_co, .schemes = "null-co"};
const Driver kNullAioDriver = {
    .name = "null-aio", .kind = DriverKind::kProtocol, .open = open_aio, .schemes = "null-aio"};

}  // namespace ostler::block
