// The program that serves one shared folder (`ostler run --share`): virtiofsd, started by us, connected to us
// before anybody else can, and ended with us.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "devices/virtio/vhost_user/address.h"

namespace ostler::machine {

class Virtiofsd {
 public:
  // Whether start() would find a program that can serve `folder`; its errors but for the folder's own.
  static Result<void> usable(const std::string& folder);
  // Errors: kNotFound (no such folder; no virtiofsd, with the package that has it), kPermission.
  static Result<std::unique_ptr<Virtiofsd>> start(const std::string& folder);
  // Ends it and waits for that.
  ~Virtiofsd();
  Virtiofsd(const Virtiofsd&) = delete;
  Virtiofsd& operator=(const Virtiofsd&) = delete;

  // The connection, for one device.
  const virtio::vhost_user::Address& address() const { return address_; }

 private:
  Virtiofsd() = default;
  pid_t process_ = -1;
  virtio::vhost_user::Address address_;
};

}  // namespace ostler::machine
