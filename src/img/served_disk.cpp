#include "img/served_disk.h"

#include "block/filters/overlay_node.h"
#include "block/formats/raw/raw_node.h"
#include "img/snapshot_name.h"
#include "img/text.h"

namespace ostler::img {
namespace {

Error mistake(std::string message) {
  return Error(ErrorKind::kInvalidArgument, std::move(message));
}

Result<Image::Request> request_of(const Arguments& arguments, bool writable) {
  TRY_ASSIGN(const std::string file, one_operand(arguments, "the name of an image"));
  if (arguments.has("nocache") && arguments.has("cache"))
    return mistake("--nocache and --cache exclude each other; --nocache is --cache=none");
  TRY_ASSIGN(Image::Request request, image_request(arguments, file, writable, "cache",
                                                   arguments.has("nocache") ? "none" : "writeback"));
  const std::string aio = arguments.value("aio", "io_uring");
  if (aio != "io_uring" && aio != "native" && aio != "threads")
    return mistake(fmt::format("--aio: '{}' is not one of io_uring, native and threads", aio));
  if (aio == "native" && !request.flags.direct)
    return mistake("--aio=native needs --nocache, or --cache=none or directsync");
  if (aio == "threads") request.flags.aio = block::Aio::kThreads;
  const std::string discard = arguments.value("discard", "unmap");
  if (discard != "unmap" && discard != "on" && discard != "ignore" && discard != "off")
    return mistake(fmt::format("--discard: '{}' is not one of unmap (on) and ignore (off)", discard));
  request.flags.unmap = discard == "unmap" || discard == "on";
  return request;
}

Result<block::DetectZeroes> detection_of(const Arguments& arguments, bool unmap) {
  const std::string mode = arguments.value("detect-zeroes", "off");
  if (mode == "off") return block::DetectZeroes::kOff;
  if (mode == "on") return block::DetectZeroes::kOn;
  if (mode != "unmap")
    return mistake(fmt::format("--detect-zeroes: '{}' is not one of off, on and unmap", mode));
  if (!unmap) return mistake("--detect-zeroes=unmap needs --discard=unmap");
  return block::DetectZeroes::kUnmap;
}

}  // namespace

Result<ServedDisk> ServedDisk::open(Tool& tool, const Arguments& arguments) {
  const bool temporary = arguments.has("snapshot"), old = arguments.has("load-snapshot");
  const bool read_only = arguments.has("read-only") || (old && !temporary);
  // What a temporary file takes does not reach the image.
  TRY_ASSIGN(const Image::Request request, request_of(arguments, !read_only && !temporary));
  TRY_ASSIGN(const block::DetectZeroes detection, detection_of(arguments, request.flags.unmap));
  TRY_ASSIGN(Image image, Image::open(tool, request));
  ServedDisk disk(tool, std::move(image), read_only);
  if (old) TRY(load_snapshot(tool, disk.image_, arguments.value("load-snapshot")));
  TRY(disk.attach(arguments, request.flags.writethrough));
  disk.client().node()->set_detect_zeroes(detection);
  return disk;
}

Result<void> ServedDisk::attach(const Arguments& arguments, bool writethrough) {
  block::NodePtr top = image_.node();
  if (arguments.has("snapshot")) {
    TRY_ASSIGN(top, block::OverlayNode::create(std::move(top)));
    above_.push_back(top);
  }
  if (arguments.has("offset")) {
    TRY_ASSIGN(const uint64_t offset, size_of_option("--offset", arguments.value("offset")));
    auto part = block::RawNode::create(top, read_only_, offset, std::nullopt);
    if (!part) return std::move(part).error().with_context("--offset");
    top = *std::move(part);
    above_.push_back(top);
  }
  if (above_.empty()) return {};
  block::Permissions permissions;
  if (!read_only_) permissions.used |= block::kPermissionWrite;
  TRY_ASSIGN(client_, block::Client::attach(top, tool_->style.program, permissions));
  client_->set_writethrough(writethrough);
  return {};
}

Result<void> ServedDisk::close() {
  Result<void> result;
  client_ = nullptr;
  while (!above_.empty()) {
    auto closed = tool_->run(above_.back()->close());
    if (!closed && result) result = std::move(closed);
    above_.pop_back();
  }
  auto closed = image_.close();
  return result ? std::move(closed) : std::move(result);
}

}  // namespace ostler::img
