// Opening VMDK images: the descriptor, its extents, the parent.
#include <fmt/format.h>

#include <cstring>

#include "block/formats/vmdk/vmdk_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

Task<Result<std::string>> read_text(Node& file, uint64_t offset, uint64_t bytes) {
  std::string text(bytes, '\0');
  CO_TRY(co_await read_image(file, offset, text.data(), text.size()));
  text.resize(std::strlen(text.c_str()));
  co_return text;
}

nlohmann::json file_options(const std::string& path) {
  return {{"driver", "file"}, {"filename", path}};
}

}  // namespace

Result<Edge> VmdkNode::attach(NodePtr node, std::string name, Role role) {
  const PermissionMask used = read_only_ ? kPermissionRead : kPermissionRead | kPermissionWrite;
  return Edge::attach(*this, std::move(node), std::move(name), role,
                      {.used = used, .shared = kPermissionsAll});
}

Result<void> VmdkNode::add_sparse(std::shared_ptr<VmdkExtent> extent, std::string type) {
  Extent added;
  added.begin = size();
  added.end = added.begin + extent->size();
  added.sparse = extent.get();
  added.type = std::move(type);
  if (added.end == added.begin) return damaged(*extent, "vmdk", "an extent has no sectors");
  TRY_ASSIGN(added.node, attach(std::move(extent), fmt::format("extents.{}", extents_.size()), Role::kData));
  extents_.push_back(std::move(added));
  return {};
}

Result<void> VmdkNode::add_flat(NodePtr file, const VmdkDescriptor::Extent& line) {
  Extent added;
  added.begin = size();
  added.end = added.begin + line.sectors * kSector;
  added.file_offset = line.offset * kSector;
  added.type = line.type;
  if (file->size() < added.file_offset + line.sectors * kSector)
    return damaged(*file, "vmdk",
                   fmt::format("the extent has {} bytes, its descriptor tells of {}", file->size(),
                               added.file_offset + line.sectors * kSector));
  TRY_ASSIGN(added.node, attach(std::move(file), fmt::format("extents.{}", extents_.size()), Role::kData));
  extents_.push_back(std::move(added));
  return {};
}

Task<Result<void>> VmdkNode::open_extents(OpenRequest& request) {
  if (descriptor_.extents.empty()) co_return damaged(*file_, "vmdk", "its descriptor names no extent");
  for (const VmdkDescriptor::Extent& line : descriptor_.extents) {
    const bool flat = line.type == "FLAT" || line.type == "VMFS";
    if (!flat && line.type != "SPARSE")
      co_return cannot(
          *file_, "vmdk",
          fmt::format("extents of type {} are not supported, FLAT, VMFS and SPARSE are", line.type));
    if (line.access == "NOACCESS" || (line.access == "RDONLY" && !read_only_))
      co_return cannot(*file_, "vmdk", fmt::format("the extent '{}' is {}", line.filename, line.access));
    if (line.filename.empty()) co_return damaged(*file_, "vmdk", "an extent has no file name");
    if (line.filename.find(':') != std::string::npos && line.filename.find(':') < line.filename.find('/'))
      co_return cannot(*file_, "vmdk", fmt::format("the extent '{}' is not a file's name", line.filename));
    std::string path = backing_path(file_->filename(), line.filename);
    if (path == file_->filename()) co_return damaged(*file_, "vmdk", "its descriptor is an extent of itself");
    nlohmann::json options = file_options(path);
    auto file = co_await request.opener.open_at(std::move(options), request.flags, request.depth + 1);
    if (!file) co_return std::move(file).error().with_context("extent of " + file_->filename());
    if (flat) {
      CO_TRY(add_flat(*std::move(file), line));
      continue;
    }
    CO_TRY_ASSIGN(std::shared_ptr<VmdkExtent> extent,
                  co_await VmdkExtent::open(*std::move(file), read_only_));
    if (extent->size() != line.sectors * kSector)
      co_return damaged(*extent, "vmdk",
                        fmt::format("the extent has {} sectors, its descriptor tells of {}",
                                    extent->size() / kSector, line.sectors));
    CO_TRY(add_sparse(std::move(extent), line.type));
  }
  co_return Result<void>();
}

Task<Result<void>> VmdkNode::open_parent(OpenRequest& request) {
  NodePtr parent;
  if (request.has("backing")) {
    const bool none = request.options.left()["backing"].is_null();
    if (none) {
      request.options.take("backing");
      co_return Result<void>();
    }
    OpenFlags flags = request.flags;
    flags.writable = false;
    auto opened = co_await request.open_child("backing", flags);
    if (!opened) co_return std::move(opened).error();
    parent = *std::move(opened);
  } else if (descriptor_.parent_cid != VmdkDescriptor::kNoParent && !request.flags.no_backing) {
    if (descriptor_.parent_hint.empty())
      co_return damaged(*file_, "vmdk", "it has a parent image, but does not tell its name");
    auto opened = co_await request.opener.open_backing(file_->filename(), descriptor_.parent_hint, "vmdk",
                                                       request.flags, request.depth);
    if (!opened) co_return std::move(opened).error();
    parent = *std::move(opened);
    const auto* vmdk = dynamic_cast<const VmdkNode*>(parent.get());
    if (vmdk == nullptr || vmdk->cid() != descriptor_.parent_cid)
      co_return damaged(
          *file_, "vmdk",
          fmt::format("its parent {} was changed after this image was made on it (its CID is not {:08x})",
                      parent->filename(), descriptor_.parent_cid));
  }
  if (parent) co_return set_backing(std::move(parent));
  co_return Result<void>();
}

Task<Result<NodePtr>> VmdkNode::open(OpenRequest request) {
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  const NodePtr image = *std::move(file);
  auto node = std::make_shared<VmdkNode>(!request.flags.writable);
  CO_TRY_ASSIGN(node->file_, node->attach(image, "file", Role::kFile));
  uint32_t magic = 0;
  CO_TRY(co_await read_image(*image, 0, &magic, sizeof magic));
  if (magic == load_le<uint32_t>("COWD"))
    co_return cannot(*image, "vmdk", "it is an ESX sparse extent (COWD), which is not supported");
  if (magic == VmdkExtentHeader::kMagic) {
    CO_TRY_ASSIGN(std::shared_ptr<VmdkExtent> extent, co_await VmdkExtent::open(image, node->read_only_));
    const VmdkExtentHeader& header = extent->header();
    if (header.descriptor_offset == 0)
      co_return cannot(*image, "vmdk",
                       "it is one extent of an image; open the descriptor file that names it");
    node->text_offset_ = header.descriptor_offset * kSector;
    CO_TRY_ASSIGN(node->text_,
                  co_await read_text(*image, node->text_offset_, header.descriptor_size * kSector));
    CO_TRY_ASSIGN(node->descriptor_, VmdkDescriptor::parse(node->text_, *image));
    CO_TRY(node->add_sparse(std::move(extent), ""));
  } else {
    if (image->size() > VmdkDescriptor::kMostBytes)
      co_return damaged(*image, "vmdk", "it begins neither with a sparse extent nor with a descriptor");
    CO_TRY_ASSIGN(node->text_, co_await read_text(*image, 0, image->size()));
    if (!VmdkDescriptor::recognised(node->text_))
      co_return damaged(*image, "vmdk", "it begins neither with a sparse extent nor with a descriptor");
    CO_TRY_ASSIGN(node->descriptor_, VmdkDescriptor::parse(node->text_, *image));
    CO_TRY(co_await node->open_extents(request));
  }
  CO_TRY(co_await node->open_parent(request));
  CO_TRY(request.options.finish());
  co_return NodePtr(std::move(node));
}

}  // namespace ostler::block
