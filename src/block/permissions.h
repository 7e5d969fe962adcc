// What the user of a node does with it, and what it lets other users do. Bit p is permission p of the image
// locks that QEMU keeps at bytes 100 + p and 200 + p of a file.
#pragma once

#include <string>

namespace ostler::block {

using PermissionMask = unsigned;
inline constexpr PermissionMask kPermissionRead = 1;  // and the content is consistent
inline constexpr PermissionMask kPermissionWrite = 2;
inline constexpr PermissionMask kPermissionWriteUnchanged = 4;  // writes what is read there anyway
inline constexpr PermissionMask kPermissionResize = 8;
inline constexpr PermissionMask kPermissionsAll = 15;

struct Permissions {
  PermissionMask used = kPermissionRead;
  PermissionMask shared = kPermissionsAll;
};

// "read, write"
std::string permission_names(PermissionMask mask);

}  // namespace ostler::block
