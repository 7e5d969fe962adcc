// Errors of the host, the configuration or a peer. Guest misbehaviour is not an Error: it follows the
// specification of the device. A bug of ours is an ASSERT.
#pragma once

#include <memory>
#include <string>
#include <utility>

namespace ostler {

// Small and stable: callers branch on it, QMP maps it to its error classes once.
enum class ErrorKind {
  kInvalidArgument,  // the user's option or the peer's request is wrong
  kNotFound,         // a file, device or id that is named does not exist
  kPermission,       // the host refused
  kUnsupported,      // understood, but not possible here
  kCorrupt,          // an image, stream or kernel breaks its format
  kNoResource,       // memory, space or descriptors ran out
  kIo,               // the host's I/O failed
  kBusy,             // in use by somebody else
  kState,            // not possible in the present state
};

// One sentence for the person, plus what a program needs. The sentence names the file or option and the cure.
class Error {
 public:
  Error(ErrorKind kind, std::string message, int host_errno = 0)
      : kind_(kind), errno_(host_errno), message_(std::move(message)) {}

  ErrorKind kind() const { return kind_; }
  int host_errno() const { return errno_; }  // 0 when no system call failed
  const std::string& message() const { return message_; }

  // "context: message": the caller's view in front of the callee's.
  Error with_context(const std::string& context) && {
    message_ = context + ": " + message_;
    return std::move(*this);
  }

 private:
  ErrorKind kind_;
  int errno_;
  std::string message_;
};

// Error of a failed system call: "message: strerror". The kind follows from `host_errno`.
Error errno_error(std::string message, int host_errno);

}  // namespace ostler
