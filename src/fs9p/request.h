// Requests of 9P2000.L as structures. Parsing is pure: bytes of a guest in, values or "malformed" out. Texts
// and data are views of the parsed bytes; texts may hold any byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "fs9p/protocol.h"

namespace ostler::fs9p {

struct Version {
  uint32_t msize;
  std::string_view version;
};
struct Attach {
  uint32_t fid, afid;
  std::string_view user, tree;  // uname, aname
  uint32_t uid;                 // n_uname, or kNoUser
};
struct Walk {
  uint32_t fid, new_fid;
  uint16_t count;
  std::array<std::string_view, kMostNames> names;
};
struct Open {
  uint32_t fid, flags;
};
struct Create {
  uint32_t fid;
  std::string_view name;
  uint32_t flags, mode, gid;
};
struct Symlink {
  uint32_t directory;
  std::string_view name, target;
  uint32_t gid;
};
struct MakeNode {
  uint32_t directory;
  std::string_view name;
  uint32_t mode, major, minor, gid;
};
struct MakeDirectory {
  uint32_t directory;
  std::string_view name;
  uint32_t mode, gid;
};
struct Rename {
  uint32_t fid, directory;
  std::string_view name;
};
struct RenameAt {
  uint32_t old_directory;
  std::string_view old_name;
  uint32_t new_directory;
  std::string_view new_name;
};
struct Link {
  uint32_t directory, fid;
  std::string_view name;
};
struct UnlinkAt {
  uint32_t directory;
  std::string_view name;
  uint32_t flags;
};
struct ReadLink {
  uint32_t fid;
};
struct GetAttributes {
  uint32_t fid;
  uint64_t mask;
};
struct SetAttributes {
  uint32_t fid, valid, mode, uid, gid;
  uint64_t size, atime, atime_ns, mtime, mtime_ns;
};
struct XattrWalk {
  uint32_t fid, new_fid;
  std::string_view name;  // empty: the list of names
};
struct XattrCreate {
  uint32_t fid;
  std::string_view name;
  uint64_t size;
  uint32_t flags;
};
struct ReadDirectory {
  uint32_t fid;
  uint64_t offset;
  uint32_t count;
};
struct Sync {
  uint32_t fid, data_only;
};
struct Lock {
  uint32_t fid;
  uint8_t type;
  uint32_t flags;
  uint64_t start, length;
  uint32_t process;
  std::string_view client;
};
struct GetLock {
  uint32_t fid;
  uint8_t type;
  uint64_t start, length;
  uint32_t process;
  std::string_view client;
};
struct StatFs {
  uint32_t fid;
};
struct Read {
  uint32_t fid;
  uint64_t offset;
  uint32_t count;
};
struct Write {
  uint32_t fid;
  uint64_t offset;
  std::span<const std::byte> data;
};
struct Clunk {
  uint32_t fid;
};
struct Remove {
  uint32_t fid;
};
struct Flush {
  uint16_t old_tag;
};
// Tauth, or a number that this protocol does not have.
struct Unknown {};

using Message =
    std::variant<Unknown, Version, Attach, Walk, Open, Create, Symlink, MakeNode, MakeDirectory, Rename,
                 RenameAt, Link, UnlinkAt, ReadLink, GetAttributes, SetAttributes, XattrWalk, XattrCreate,
                 ReadDirectory, Sync, Lock, GetLock, StatFs, Read, Write, Clunk, Remove, Flush>;

struct Header {
  uint32_t size;  // of the whole message, in bytes
  uint8_t type;
  uint16_t tag;
};

// From the first kHeaderBytes of `bytes`, of which there are as many.
Header parse_header(std::span<const std::byte> bytes);

// `bytes`: one whole message. None when it is malformed: its size is another, a field or text goes beyond its
// end, bytes are left over, or it has more names than kMostNames.
std::optional<Message> parse_request(std::span<const std::byte> bytes);

}  // namespace ostler::fs9p
