#include "block/formats/qed/qed_node.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/mapped/backing.h"

namespace ostler::block {
namespace {

constexpr uint64_t kZeroCluster = 1;  // as an entry
constexpr Permissions kBackingPermissions = {.used = kPermissionRead, .shared = kPermissionsAll};

}  // namespace

Task<Result<NodePtr>> QedNode::open(OpenRequest request) {
  auto opened = co_await request.open_child("file");
  if (!opened) co_return std::move(opened).error();
  const NodePtr file = *std::move(opened);
  std::array<std::byte, QedHeader::kBytes> bytes;
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  auto node = std::make_shared<QedNode>(!request.flags.writable);
  CO_TRY_ASSIGN(node->header_, QedHeader::parse(bytes, *file));
  const QedHeader& header = node->header_;
  node->set_geometry(header.disk_bytes, header.cluster_bytes);
  CO_TRY(node->attach_file(file));
  if ((header.features & QedHeader::kBacking) != 0) {
    std::string name(header.backing_bytes, '\0');
    CO_TRY(co_await read_image(*file, header.backing_offset, name.data(), name.size()));
    node->backing_name_ = name.substr(0, name.find('\0'));
  }
  CO_TRY_ASSIGN(NodePtr backing,
                co_await open_backing_of(request, file, node->backing_name_, node->backing_file_format()));
  if (backing) CO_TRY(node->set_backing(std::move(backing)));
  CO_TRY(request.options.finish());
  if (request.flags.writable && !request.flags.check && node->dirty())
    CO_TRY(co_await node->clear_need_check());
  co_return NodePtr(std::move(node));
}

Task<Result<void>> QedNode::clear_need_check() {
  CO_TRY_ASSIGN(const CheckReport report, co_await check({}));
  if (report.corruptions != 0 || report.errors != 0)
    co_return damaged(
        image(), "qed",
        fmt::format("it was not closed properly and has {} errors; copy what is readable to a new image "
                    "with `ostler-img convert`",
                    report.corruptions + report.errors));
  header_.features &= ~QedHeader::kNeedCheck;
  CO_TRY(co_await write_header());
  co_return co_await flush_image(image());
}

Task<Result<void>> QedNode::write_header() {
  const auto bytes = header_.encode();
  co_return co_await write_image(image(), 0, bytes.data(), bytes.size());
}

bool QedNode::valid_offset(uint64_t offset, uint64_t bytes) const {
  const uint64_t end = image().size();
  return offset % header_.cluster_bytes == 0 &&
         offset >= uint64_t{header_.header_clusters} * header_.cluster_bytes && offset < end &&
         (bytes <= header_.cluster_bytes || bytes <= end - offset);
}

Task<int> QedNode::table_of(uint64_t cluster, uint64_t& offset) {
  const uint64_t at = header_.l1_offset + cluster / header_.table_entries() * 8;
  const int error = co_await tables_.read(image(), at, &offset, sizeof offset);
  if (error != 0 || offset == 0) co_return error;
  co_return valid_offset(offset, header_.table_bytes()) ? 0 : -EIO;
}

Task<int> QedNode::find(uint64_t cluster, Place& place) {
  place = {};
  uint64_t table = 0;
  const uint64_t index = cluster % header_.table_entries();
  int error = co_await table_of(cluster, table);
  if (error != 0 || table == 0) {
    place.clusters = header_.table_entries() - index;
    co_return error;
  }
  uint64_t entry = 0;
  error = co_await tables_.read(image(), table + index * 8, &entry, sizeof entry);
  if (error != 0 || entry == 0) co_return error;
  if (entry == kZeroCluster) {
    place.kind = Place::Kind::kZero;
    co_return 0;
  }
  place.kind = Place::Kind::kData;
  place.offset = entry;
  co_return valid_offset(entry, cluster_bytes()) ? 0 : -EIO;
}

Task<Result<void>> QedNode::prepare_writing() {
  next_ = align_up(image().size(), header_.cluster_bytes);
  if (header_.autoclear_features != 0) {
    header_.autoclear_features = 0;  // what these describe is no longer kept up to date
    CO_TRY(co_await write_header());
  }
  co_return Result<void>();
}

Task<int> QedNode::reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) {
  count = std::min(count, header_.table_entries() - cluster % header_.table_entries());
  offset = next_;
  co_return 0;
}

Task<int> QedNode::need_table(uint64_t cluster, uint64_t& offset) {
  int error = co_await table_of(cluster, offset);
  if (error != 0 || offset != 0) co_return error;
  offset = next_;
  error = co_await tables_.clear_in_file(image(), offset, header_.table_bytes());
  if (error != 0) co_return error;
  next_ += header_.table_bytes();
  const uint64_t at = header_.l1_offset + cluster / header_.table_entries() * 8;
  co_return co_await tables_.change(image(), at, &offset, sizeof offset);
}

Task<int> QedNode::write_entries(uint64_t cluster, const std::vector<uint64_t>& entries) {
  uint64_t table = 0;
  const int error = co_await need_table(cluster, table);
  if (error != 0) co_return error;
  const uint64_t at = table + cluster % header_.table_entries() * 8;
  co_return co_await tables_.change(image(), at, entries.data(), entries.size() * 8);
}

Task<int> QedNode::publish(uint64_t cluster, uint64_t count, uint64_t offset) {
  next_ = std::max(next_, offset + count * cluster_bytes());
  std::vector<uint64_t> entries(count);
  for (uint64_t i = 0; i < count; ++i) entries[i] = offset + i * cluster_bytes();
  co_return co_await write_entries(cluster, entries);
}

Task<int> QedNode::publish_zero(uint64_t cluster, uint64_t count) {
  while (count != 0) {
    const uint64_t some = std::min(count, header_.table_entries() - cluster % header_.table_entries());
    const std::vector<uint64_t> entries(some, kZeroCluster);
    const int error = co_await write_entries(cluster, entries);
    if (error != 0) co_return error;
    cluster += some;
    count -= some;
  }
  co_return 0;
}

std::vector<const Edge*> QedNode::children() const {
  std::vector<const Edge*> result = MappedNode::children();
  if (backing_) result.push_back(&backing_);
  return result;
}

Result<void> QedNode::set_backing(NodePtr node) {
  if (!node) {
    backing_.detach();
  } else if (backing_) {
    TRY(backing_.replace(std::move(node)));
  } else {
    TRY_ASSIGN(backing_,
               Edge::attach(*this, std::move(node), "backing", Role::kBacking, kBackingPermissions));
  }
  return {};
}

Task<Result<void>> QedNode::change_backing_file(std::string file, std::string format) {
  const uint64_t room = uint64_t{header_.header_clusters} * header_.cluster_bytes - QedHeader::kBytes;
  if (file.size() > std::min<uint64_t>(room, 1023))
    co_return Error(ErrorKind::kInvalidArgument,
                    filename() + ": the backing file's name is too long for a qed image");
  header_.features &= ~(QedHeader::kBacking | QedHeader::kBackingIsRaw);
  if (!file.empty()) header_.features |= QedHeader::kBacking;
  if (!file.empty() && format == "raw") header_.features |= QedHeader::kBackingIsRaw;
  header_.backing_offset = file.empty() ? 0 : QedHeader::kBytes;
  header_.backing_bytes = static_cast<uint32_t>(file.size());
  if (!file.empty()) CO_TRY(co_await write_image(image(), QedHeader::kBytes, file.data(), file.size()));
  CO_TRY(co_await write_header());
  backing_name_ = file;
  co_return co_await flush_image(image());
}

Task<Result<void>> QedNode::truncate(uint64_t size, Preallocation preallocation) {
  if (preallocation != Preallocation::kOff)
    co_return Error(ErrorKind::kUnsupported, filename() + ": qed images cannot be preallocated");
  if (size < header_.disk_bytes)
    co_return Error(ErrorKind::kUnsupported, filename() + ": qed images cannot be made smaller");
  if (size > header_.most_bytes() || size % 512 != 0)
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{}: the size {} is not a multiple of 512 up to {}", filename(), size,
                                header_.most_bytes()));
  header_.disk_bytes = size;
  CO_TRY(co_await write_header());
  change_size(size);
  resized();
  co_return Result<void>();
}

}  // namespace ostler::block
