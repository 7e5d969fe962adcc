#include "machine/nbd_exports.h"

#include <fmt/format.h>

#include <utility>

#include "base/suggest.h"
#include "block/nbd/tls_objects.h"

namespace ostler::machine {

Result<void> NbdExports::begin(const std::vector<config::Object>& objects) {
  const auto of = [](const config::Object& object, Result<void> done) -> Result<void> {
    if (!done) return std::move(done).error().with_context(object.origin);
    return {};
  };
  for (const config::Object& each : objects) {
    if (each.type != config::kNbdServer) continue;
    TRY_ASSIGN(const config::NbdServer server, config::nbd_server(each));
    TRY(of(each, start(server)));
  }
  for (const config::Object& each : objects) {
    if (each.type != config::kNbdExport) continue;
    TRY_ASSIGN(const config::NbdExport disk, config::nbd_export(each));
    TRY(of(each, add(disk)));
  }
  return {};
}

Result<void> NbdExports::start(const config::NbdServer& server) {
  std::shared_ptr<const block::nbd::TlsCredentials> tls;
  if (!server.tls_credentials.empty()) {
    TRY_ASSIGN(
        tls, block::nbd::find_tls(disks_.opener(), server.tls_credentials, block::nbd::TlsEndpoint::kServer));
  }
  return server_.start({.path = server.path, .host = server.host, .port = server.port}, std::move(tls),
                       server.most_clients);
}

void NbdExports::stop() {
  server_.stop();
  exports_.clear();
}

Result<std::shared_ptr<block::Client>> NbdExports::attach(const config::NbdExport& disk,
                                                          const block::nbd::Export::Settings& settings) {
  const std::lock_guard lock(block::graph_mutex());
  TRY_ASSIGN(const block::NodePtr node, disks_.node(disk.node));
  if (disk.writable && node->read_only())
    return Error(ErrorKind::kPermission, fmt::format("'{}' is read-only; leave writable=on out", disk.node));
  return block::nbd::LiveServer::attach(node, settings);
}

Result<void> NbdExports::add(const config::NbdExport& disk) {
  if (exports_.contains(disk.id))
    return Error(ErrorKind::kBusy, fmt::format("there is an export '{}' already", disk.id));
  const block::nbd::Export::Settings settings = {.name = disk.name,
                                                 .description = disk.description,
                                                 .read_only = !disk.writable,
                                                 .multi_conn = true,
                                                 .bitmaps = disk.bitmaps,
                                                 .allocation_depth = disk.allocation_depth};
  TRY_ASSIGN(auto client, attach(disk, settings));
  TRY(server_.add(std::move(client), settings));
  exports_.emplace(disk.id, disk);
  return {};
}

Result<void> NbdExports::remove(const std::string& id) {
  const auto found = exports_.find(id);
  if (found == exports_.end()) {
    std::vector<std::string_view> known;
    for (const auto& entry : exports_) known.push_back(entry.first);
    return Error(ErrorKind::kNotFound, fmt::format("there is no export '{}'{}", id, suggestion(id, known)));
  }
  TRY(server_.remove(found->second.name));
  exports_.erase(found);
  return {};
}

}  // namespace ostler::machine
