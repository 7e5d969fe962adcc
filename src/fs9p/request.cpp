#include "fs9p/request.h"

#include "base/bytes.h"

namespace ostler::fs9p {
namespace {

// Takes fields from the front; after the first that does not fit, all are zeros and good() is false.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class T>
  Fields& operator>>(T& value) {
    if constexpr (std::is_same_v<T, std::string_view>) {
      const auto text = take(number<uint16_t>());
      value = {reinterpret_cast<const char*>(text.data()), text.size()};
    } else {
      value = number<T>();
    }
    return *this;
  }
  template <class T>
  T number() {
    const auto bytes = take(sizeof(T));
    return bytes.empty() ? T{} : load_le<T>(bytes.data());
  }
  std::span<const std::byte> take(size_t size) {
    if (size > bytes_.size()) {
      good_ = false;
      bytes_ = {};
    }
    if (!good_) return {};
    const auto taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  bool at_end() const { return good_ && bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  bool good_ = true;
};

// What has only numbers and texts, in the order of the message.
template <class T, class... Members>
Message plain(Fields& fields, Members... members) {
  T message{};
  (void)(fields >> ... >> (message.*members));
  return message;
}

Message walk(Fields& fields) {
  Walk message{};
  fields >> message.fid >> message.new_fid >> message.count;
  for (uint16_t i = 0; i < std::min(message.count, kMostNames); ++i) fields >> message.names[i];
  return message;
}

Message write(Fields& fields) {
  Write message{};
  fields >> message.fid >> message.offset;
  message.data = fields.take(fields.number<uint32_t>());
  return message;
}

Message body(Type type, Fields& f) {
  switch (type) {
    case Type::kVersion:
      return plain<Version>(f, &Version::msize, &Version::version);
    case Type::kAttach:
      return plain<Attach>(f, &Attach::fid, &Attach::afid, &Attach::user, &Attach::tree, &Attach::uid);
    case Type::kWalk:
      return walk(f);
    case Type::kLopen:
      return plain<Open>(f, &Open::fid, &Open::flags);
    case Type::kLcreate:
      return plain<Create>(f, &Create::fid, &Create::name, &Create::flags, &Create::mode, &Create::gid);
    case Type::kSymlink:
      return plain<Symlink>(f, &Symlink::directory, &Symlink::name, &Symlink::target, &Symlink::gid);
    case Type::kMknod:
      return plain<MakeNode>(f, &MakeNode::directory, &MakeNode::name, &MakeNode::mode, &MakeNode::major,
                             &MakeNode::minor, &MakeNode::gid);
    case Type::kMkdir:
      return plain<MakeDirectory>(f, &MakeDirectory::directory, &MakeDirectory::name, &MakeDirectory::mode,
                                  &MakeDirectory::gid);
    case Type::kRename:
      return plain<Rename>(f, &Rename::fid, &Rename::directory, &Rename::name);
    case Type::kRenameat:
      return plain<RenameAt>(f, &RenameAt::old_directory, &RenameAt::old_name, &RenameAt::new_directory,
                             &RenameAt::new_name);
    case Type::kLink:
      return plain<Link>(f, &Link::directory, &Link::fid, &Link::name);
    case Type::kUnlinkat:
      return plain<UnlinkAt>(f, &UnlinkAt::directory, &UnlinkAt::name, &UnlinkAt::flags);
    case Type::kReadlink:
      return plain<ReadLink>(f, &ReadLink::fid);
    case Type::kGetattr:
      return plain<GetAttributes>(f, &GetAttributes::fid, &GetAttributes::mask);
    case Type::kSetattr:
      return plain<SetAttributes>(f, &SetAttributes::fid, &SetAttributes::valid, &SetAttributes::mode,
                                  &SetAttributes::uid, &SetAttributes::gid, &SetAttributes::size,
                                  &SetAttributes::atime, &SetAttributes::atime_ns, &SetAttributes::mtime,
                                  &SetAttributes::mtime_ns);
    case Type::kXattrwalk:
      return plain<XattrWalk>(f, &XattrWalk::fid, &XattrWalk::new_fid, &XattrWalk::name);
    case Type::kXattrcreate:
      return plain<XattrCreate>(f, &XattrCreate::fid, &XattrCreate::name, &XattrCreate::size,
                                &XattrCreate::flags);
    case Type::kReaddir:
      return plain<ReadDirectory>(f, &ReadDirectory::fid, &ReadDirectory::offset, &ReadDirectory::count);
    case Type::kFsync:
      return plain<Sync>(f, &Sync::fid, &Sync::data_only);
    case Type::kLock:
      return plain<Lock>(f, &Lock::fid, &Lock::type, &Lock::flags, &Lock::start, &Lock::length,
                         &Lock::process, &Lock::client);
    case Type::kGetlock:
      return plain<GetLock>(f, &GetLock::fid, &GetLock::type, &GetLock::start, &GetLock::length,
                            &GetLock::process, &GetLock::client);
    case Type::kStatfs:
      return plain<StatFs>(f, &StatFs::fid);
    case Type::kRead:
      return plain<Read>(f, &Read::fid, &Read::offset, &Read::count);
    case Type::kWrite:
      return write(f);
    case Type::kClunk:
      return plain<Clunk>(f, &Clunk::fid);
    case Type::kRemove:
      return plain<Remove>(f, &Remove::fid);
    case Type::kFlush:
      return plain<Flush>(f, &Flush::old_tag);
    case Type::kAuth:
    case Type::kLerror:
      break;
  }
  return Unknown{};
}

}  // namespace

Header parse_header(std::span<const std::byte> bytes) {
  Fields fields(bytes);
  Header header{};
  fields >> header.size >> header.type >> header.tag;
  return header;
}

std::optional<Message> parse_request(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeaderBytes) return std::nullopt;
  const Header header = parse_header(bytes);
  if (header.size != bytes.size()) return std::nullopt;
  Fields fields(bytes.subspan(kHeaderBytes));
  Message message = body(static_cast<Type>(header.type), fields);
  if (std::holds_alternative<Unknown>(message)) return message;
  if (const auto* walk = std::get_if<Walk>(&message); walk != nullptr && walk->count > kMostNames)
    return std::nullopt;
  if (!fields.at_end()) return std::nullopt;
  return message;
}

}  // namespace ostler::fs9p
