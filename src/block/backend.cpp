#include "block/backend.h"

namespace ostler::block {
namespace {

Task<void> read_later(std::shared_ptr<Client> client, uint64_t offset, std::vector<iovec> iov, Done done) {
  const int result = co_await client->read(offset, iov);
  done(-result);
}

Task<void> write_later(std::shared_ptr<Client> client, uint64_t offset, std::vector<iovec> iov, Done done) {
  const int result = co_await client->write(offset, iov);
  done(-result);
}

Task<void> flush_later(std::shared_ptr<Client> client, Done done) {
  const int result = co_await client->flush();
  done(-result);
}

Task<void> discard_later(std::shared_ptr<Client> client, uint64_t offset, uint64_t length, Done done) {
  const int result = co_await client->discard(offset, length);
  done(-result);
}

Task<void> zero_later(std::shared_ptr<Client> client, uint64_t offset, uint64_t length, bool may_unmap,
                      Done done) {
  const int result = co_await client->write_zeroes(offset, length, {.may_unmap = may_unmap});
  done(-result);
}

Task<void> call(std::function<void()> task) {
  task();
  co_return;
}

}  // namespace

NodeBackend::NodeBackend(std::shared_ptr<Client> client, IoContext& context, ErrorPolicy policy)
    : client_(std::move(client)),
      context_(context),
      name_(client_->node()->filename()),
      policy_(std::move(policy)) {}

Verdict NodeBackend::judge(bool is_read, int error) {
  ErrorAction action = is_read ? policy_.read : policy_.write;
  const bool full = error == ENOSPC || error == EDQUOT;
  if (action == ErrorAction::kEnospc) action = full ? ErrorAction::kStop : ErrorAction::kReport;
  if (action == ErrorAction::kIgnore) return Verdict::kIgnore;
  return action == ErrorAction::kReport || !policy_.stop ? Verdict::kReport : Verdict::kKeep;
}

void NodeBackend::read(uint64_t offset, std::vector<iovec> iov, Done done) {
  if (const int result = client_->try_read(offset, iov); result != -EAGAIN) return done(-result);
  context_.spawn(read_later(client_, offset, std::move(iov), std::move(done)));
}

void NodeBackend::write(uint64_t offset, std::vector<iovec> iov, Done done) {
  if (const int result = client_->try_write(offset, iov); result != -EAGAIN) return done(-result);
  context_.spawn(write_later(client_, offset, std::move(iov), std::move(done)));
}

void NodeBackend::flush(Done done) {
  context_.spawn(flush_later(client_, std::move(done)));
}

void NodeBackend::discard(uint64_t offset, uint64_t length, Done done) {
  context_.spawn(discard_later(client_, offset, length, std::move(done)));
}

void NodeBackend::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) {
  context_.spawn(zero_later(client_, offset, length, may_unmap, std::move(done)));
}

void NodeBackend::defer(std::function<void()> task) {
  context_.spawn(call(std::move(task)));
}

}  // namespace ostler::block
