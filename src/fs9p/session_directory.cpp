// Reading folders.
#include <dirent.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fs9p/session.h"

namespace ostler::fs9p {
namespace {

constexpr size_t kEntryHead = 13 + 8 + 1 + 2;  // qid, offset, type, length of the name

// getdents64(2): struct linux_dirent64 up to its name.
struct [[gnu::packed]] DirectoryEntry {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
};
static_assert(sizeof(DirectoryEntry) == 19);

uint8_t qid_type(uint8_t type) {
  return type == DT_DIR ? Qid::kDirectory : type == DT_LNK ? Qid::kSymlink : Qid::kFile;
}

}  // namespace

// Offsets are those of the host's file system. What did not fit is read again from the last one that did.
int Session::run(const ReadDirectory& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const Place place = fid->where();
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  if (!place.node->is_directory()) return ENOTDIR;
  const uint32_t room = data_room(request.count, reply);
  reply << uint32_t{0};
  const size_t begin = reply.size();
  if (request.offset > INT64_MAX) return EINVAL;
  // An entry takes less here than in the reply, up to the padding of the last.
  std::vector<std::byte> entries(std::min<size_t>(room, 64 * 1024) + sizeof(DirectoryEntry));
  const std::lock_guard position(file->position);
  if (::lseek(file->fd.get(), static_cast<off_t>(request.offset), SEEK_SET) < 0) return errno;
  bool full = false;
  while (!full) {
    const long got = ::syscall(SYS_getdents64, file->fd.get(), entries.data(), entries.size());
    // EINVAL: not even one fits into the buffer, thus not into the reply either.
    if (got < 0 && reply.size() == begin) return errno;
    if (got <= 0) break;
    for (size_t at = 0; at < static_cast<size_t>(got) && !full;) {
      DirectoryEntry entry;
      std::memcpy(&entry, entries.data() + at, sizeof entry);
      const auto* const text = reinterpret_cast<const char*>(entries.data() + at + sizeof entry);
      const std::string_view name(text, ::strnlen(text, entry.length - sizeof entry));
      at += entry.length;
      if (full = reply.size() - begin + kEntryHead + name.size() > room; full) break;
      // The folder above the share is none of the guest's business.
      const bool above = name == ".." && place.node->same_as(*share_->root());
      Qid qid;
      if (const int error =
              share_->qid_path(place.node->device, above ? place.node->inode : entry.inode, qid.path);
          error != 0)
        return error;
      // A plain file may stand for something else, which its attributes tell.
      const uint8_t type = share_->mapped() && entry.type == DT_REG ? uint8_t{DT_UNKNOWN} : entry.type;
      qid.type = qid_type(type);
      reply << qid << entry.offset << type << name;
    }
  }
  const size_t bytes = reply.size() - begin;
  // An empty reply would tell the end of the folder.
  if (full && bytes == 0) return EINVAL;
  reply.patch(kHeaderBytes, static_cast<uint32_t>(bytes));
  return 0;
}

}  // namespace ostler::fs9p
