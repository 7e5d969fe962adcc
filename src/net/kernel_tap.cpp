#include "net/kernel_tap.h"

#include <fmt/format.h>

#include "base/log.h"
#include "net/endpoint.h"
#include "net/run_program.h"

namespace ostler::net {
namespace {

Result<std::vector<VhostNet>> open_vhosts(const std::string& path, size_t count) {
  std::vector<VhostNet> vhosts;
  while (vhosts.size() < count) {
    TRY_ASSIGN(VhostNet vhost, VhostNet::open(path));
    vhosts.push_back(std::move(vhost));
  }
  return vhosts;
}

}  // namespace

Result<std::unique_ptr<KernelTap>> KernelTap::open(const TapOptions& options) {
  std::vector<VhostNet> inherited;
  for (const int fd : options.vhost_fds) {
    Fd vhost(fd);
    make_ours(vhost);
    inherited.emplace_back(std::move(vhost));
  }
  TRY_ASSIGN(TapDevice device, TapDevice::open(options));
  std::unique_ptr<KernelTap> tap(new KernelTap(std::move(device), options));
  const size_t pairs = tap->device_.queues.size();
  if (!inherited.empty()) {
    if (inherited.size() != pairs)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("vhostfds: there are {} descriptors of vhost-net for {} queue pairs; give one "
                               "for each",
                               inherited.size(), pairs));
    tap->vhosts_ = std::move(inherited);
    return tap;
  }
  auto opened = open_vhosts(options.vhost_device, pairs);
  if (opened) {
    tap->vhosts_ = *std::move(opened);
    return tap;
  }
  if (options.vhost_force) return std::move(opened).error().with_context("vhostforce=on");
  log::warning(fmt::format("network '{}': vhost=on: {}; frames go through this program", options.id,
                           opened.error().message()));
  return tap;
}

TapDevice KernelTap::take_device() {
  vhosts_.clear();
  return std::move(device_);
}

KernelTap::~KernelTap() {
  if (device_.queues.empty()) return;
  run_downscript(device_, id_);
}

}  // namespace ostler::net
