// A bridge of the host that is made when there is none and removed when its last user ends.
//
// Each part is noted in a file before it is made, and users hold a shared lock on that file, which the kernel
// drops even after kill -9: the next start of any such bridge removes what notes without a user tell of, and
// begins anew. Needs CAP_NET_ADMIN, iproute2, and for what is asked for, nftables and dnsmasq.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::net {

struct ManagedBridgeOptions {
  std::string name;
  std::string address;  // of the host on it, "10.1.2.1/24"; "": a network that is free here
  bool nat = false;     // guests reach the world by this host's addresses
  std::string folder;   // of the notes; "": this user's under /run
};

class ManagedBridge {
 public:
  // Null: the bridge is there and not ours; it is left as it is. Errors name the program, file or right that
  // is missing.
  static Result<std::unique_ptr<ManagedBridge>> use(const ManagedBridgeOptions& options);
  // Removes everything if nobody else uses it. After the tap devices on it are closed.
  ~ManagedBridge();

 private:
  ManagedBridge(std::string name, std::string notes, Fd file)
      : name_(std::move(name)), notes_(std::move(notes)), file_(std::move(file)) {}
  // Of all other bridges of this network namespace whose notes are beside `mine`.
  static void remove_leftovers(const std::string& mine);
  Result<void> make(const ManagedBridgeOptions& options);
  Result<void> make_nat(const std::string& network);
  void serve_dhcp(const std::string& address);
  Result<void> note(const std::string& line);
  bool others_forward() const;
  void undo();

  const std::string name_, notes_;
  Fd file_;
};

}  // namespace ostler::net
