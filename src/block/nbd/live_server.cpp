#include "block/nbd/live_server.h"

namespace ostler::block::nbd {
namespace {

constexpr unsigned kMostClients = 1024;

Task<Result<void>> add_to(Server* server, std::shared_ptr<const Export> disk) {
  auto added = server->add(std::move(disk));
  co_return added;
}

Task<void> serve(Server* server, std::promise<void>* ended) {
  co_await server->run();
  ended->set_value();
}

Error not_running() {
  return Error(ErrorKind::kState, "the NBD server does not run; start it first");
}

}  // namespace

LiveServer::~LiveServer() {
  stop();
}

Result<void> LiveServer::start(const Address& address, std::shared_ptr<const TlsCredentials> tls,
                               unsigned most_clients) {
  if (running()) return Error(ErrorKind::kState, "the NBD server runs already");
  Server::Settings settings;
  settings.tls = std::move(tls);
  settings.most_clients = most_clients == 0 ? kMostClients : most_clients;
  auto server = std::make_unique<Server>(std::move(settings));
  if (address.path.empty())
    TRY(server->listen_on_address(address.host, address.port));
  else
    TRY(server->listen_on_path(address.path));
  server_ = std::move(server);
  thread_.emplace();
  ended_ = {};
  thread_->context().spawn(serve(server_.get(), &ended_));
  return {};
}

void LiveServer::stop() {
  if (!running()) return;
  server_->stop();
  ended_.get_future().wait();
  thread_.reset();
  server_ = nullptr;
}

Result<void> LiveServer::add(const NodePtr& node, Export::Settings settings) {
  if (!running()) return not_running();
  TRY_ASSIGN(auto client, attach(node, settings));
  return add(std::move(client), std::move(settings));
}

Result<std::shared_ptr<Client>> LiveServer::attach(const NodePtr& node, const Export::Settings& settings) {
  Permissions permissions;
  if (!settings.read_only && !node->read_only()) permissions.used |= kPermissionWrite;
  return Client::attach(node, "NBD export '" + settings.name + "'", permissions);
}

Result<void> LiveServer::add(std::shared_ptr<Client> client, Export::Settings settings) {
  if (!running()) return not_running();
  settings.multi_conn = true;  // all clients are of one thread and one node
  TRY_ASSIGN(std::shared_ptr<const Export> disk, Export::create(std::move(client), std::move(settings)));
  return thread_->wait_for(add_to(server_.get(), std::move(disk)));
}

Result<void> LiveServer::remove(const std::string& name) {
  if (!running()) return not_running();
  return thread_->wait_for(server_->remove(name));
}

}  // namespace ostler::block::nbd
