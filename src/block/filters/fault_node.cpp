#include "block/filters/fault_node.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "block/driver.h"

namespace ostler::block {

void FaultNode::add(FaultRule rule) {
  const std::lock_guard lock(mutex_);
  rules_.push_back(rule);
}

void FaultNode::clear() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
}

uint64_t FaultNode::count(unsigned kinds) const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (unsigned bit = 0; bit < std::size(counts_); ++bit)
    if ((kinds >> bit & 1) != 0) sum += counts_[bit];
  return sum;
}

FaultNode::Verdict FaultNode::judge(FaultKind kind, uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  ++counts_[std::countr_zero(static_cast<unsigned>(kind))];
  for (size_t i = 0; i < rules_.size(); ++i) {
    FaultRule& rule = rules_[i];
    if ((rule.kinds & kind) == 0) continue;
    if (rule.offset && (*rule.offset < offset || *rule.offset - offset >= bytes)) continue;
    if (rule.skip != 0) {
      --rule.skip;
      continue;
    }
    const Verdict verdict{-rule.error, std::min(rule.transfer, bytes)};
    if (rule.once) rules_.erase(rules_.begin() + static_cast<ptrdiff_t>(i));
    return verdict;
  }
  return {};
}

Task<int> FaultNode::read(uint64_t offset, Buffers to) {
  const Verdict verdict = judge(kFaultRead, offset, total_bytes(to));
  if (verdict.error != 0) co_return verdict.error;
  co_return co_await child_->read(offset, to);
}

Task<int> FaultNode::write(uint64_t offset, Buffers from) {
  const Verdict verdict = judge(kFaultWrite, offset, total_bytes(from));
  if (verdict.error == 0) co_return co_await child_->write(offset, from);
  if (verdict.transfer != 0) {
    const Slice part(from, 0, verdict.transfer);
    const int error = co_await child_->write(offset, part);
    if (error != 0) co_return error;
  }
  co_return verdict.error;
}

Task<int> FaultNode::flush() {
  const Verdict verdict = judge(kFaultFlush, 0, 0);
  if (verdict.error != 0) co_return verdict.error;
  co_return co_await child_->flush();
}

Task<int> FaultNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const Verdict verdict = judge(kFaultWriteZeroes, offset, bytes);
  if (verdict.error != 0) co_return verdict.error;
  co_return co_await child_->write_zeroes(offset, bytes, flags);
}

Task<int> FaultNode::discard(uint64_t offset, uint64_t bytes) {
  const Verdict verdict = judge(kFaultDiscard, offset, bytes);
  if (verdict.error != 0) co_return verdict.error;
  co_return co_await child_->discard(offset, bytes);
}

Task<int> FaultNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) {
  const Verdict verdict = judge(kFaultStatus, offset, bytes);
  if (verdict.error != 0) co_return verdict.error;
  co_return co_await child_->block_status(offset, bytes, detail, status);
}

Task<Result<void>> FaultNode::truncate(uint64_t size, Preallocation preallocation) {
  const Verdict verdict = judge(kFaultTruncate, size, 1);
  if (verdict.error != 0) co_return errno_error(filename() + " cannot be resized", -verdict.error);
  co_return co_await child_->truncate(size, preallocation);
}

namespace {

Result<FaultRule> parse_rule(nlohmann::json description) {
  OptionReader reader(std::move(description), "blkdebug inject-error");
  FaultRule rule;
  TRY_ASSIGN(const auto event, reader.choice("event", {"none", "read_aio", "write_aio", "pwritev",
                                                       "flush_to_os", "flush_to_disk"}));
  TRY_ASSIGN(const auto kind,
             reader.choice("iotype", {"read", "write", "write-zeroes", "discard", "flush", "block-status"}));
  if (event == "read_aio") rule.kinds = kFaultRead;
  if (event == "write_aio" || event == "pwritev") rule.kinds = kFaultWrite;
  if (event == "flush_to_os" || event == "flush_to_disk") rule.kinds = kFaultFlush;
  if (kind == "read") rule.kinds = kFaultRead;
  if (kind == "write") rule.kinds = kFaultWrite;
  if (kind == "write-zeroes") rule.kinds = kFaultWriteZeroes;
  if (kind == "discard") rule.kinds = kFaultDiscard;
  if (kind == "flush") rule.kinds = kFaultFlush;
  if (kind == "block-status") rule.kinds = kFaultStatus;
  TRY_ASSIGN(const auto error, reader.number("errno", 4095));
  rule.error = static_cast<int>(error.value_or(EIO));
  if (rule.error == 0) return reader.error("errno", "must not be 0");
  TRY_ASSIGN(const auto once, reader.boolean("once"));
  rule.once = once.value_or(false);
  TRY_ASSIGN(const auto skip, reader.number("skip"));
  rule.skip = skip.value_or(0);
  if (const auto sector = reader.take("sector"); sector && *sector != nlohmann::json(-1)) {
    reader.left()["sector"] = *sector;
    TRY_ASSIGN(const auto number, reader.number("sector", INT64_MAX / 512));
    rule.offset = *number * 512;
  }
  TRY_ASSIGN(const auto immediately, reader.boolean("immediately"));
  static_cast<void>(immediately);
  TRY(reader.finish());
  return rule;
}

Task<Result<NodePtr>> open_fault(OpenRequest request) {
  auto node = std::make_shared<FaultNode>();
  if (const auto rules = request.options.take("inject-error")) {
    if (!rules->is_array()) co_return request.options.error("inject-error", "must be a list");
    for (const nlohmann::json& each : *rules) {
      CO_TRY_ASSIGN(const FaultRule rule, parse_rule(each));
      node->add(rule);
    }
  }
  auto child = co_await request.open_child("image");
  if (!child) co_return std::move(child).error();
  CO_TRY(request.options.finish());
  CO_TRY(node->connect(*std::move(child), pass_through_permissions(request.flags.writable)));
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kBlkdebugDriver;
const Driver kBlkdebugDriver = {.name = "blkdebug", .kind = DriverKind::kFilter, .open = open_fault};

}  // namespace ostler::block
