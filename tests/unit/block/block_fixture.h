// A folder for image files, and requests as plain calls that run a context until they are done.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "block/driver.h"
#include "block/file/file_node.h"
#include "block/io_context.h"
#include "block/node.h"
#include "block/open.h"
#include "support/temp_folder.h"

namespace ostler::block::test {

class BlockTest : public testing::Test {
 protected:
  explicit BlockTest(Aio aio = Aio::kIoUring) : context(aio) {}
  std::string path(const std::string& name) const { return folder + "/" + name; }
  std::string make_file(const std::string& name, const std::string& content) {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  static std::string content_of(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(stream)), {});
  }
  std::shared_ptr<FileNode> open_file(const std::string& file, bool read_only = false) {
    auto node = FileNode::open({.path = file, .read_only = read_only});
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  NodePtr open(const std::string& file, const std::string& format, bool writable = true) {
    OpenFlags flags;
    flags.writable = writable;
    flags.no_flush = true;  // the host need not keep what a test makes
    return open(file, format, flags);
  }
  NodePtr open(const std::string& file, const std::string& format, OpenFlags flags) {
    auto node = context.run_until(opener.open(file, format, flags));
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  NodePtr open_options(nlohmann::json options, bool writable = true) {
    OpenFlags flags;
    flags.writable = writable;
    auto node = context.run_until(opener.open(std::move(options), flags));
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  // The message of the error; "" if it opens.
  std::string open_error(const std::string& file, const std::string& format, bool writable = false) {
    OpenFlags flags;
    flags.writable = writable;
    auto node = context.run_until(opener.open(file, format, flags));
    return node ? "" : node.error().message();
  }
  void close(NodePtr& node) {
    auto result = context.run_until(close_chain(std::move(node)));
    EXPECT_TRUE(result) << (result ? "" : result.error().message());
    node = nullptr;
  }

  std::string read(Node& node, uint64_t offset, size_t size) {
    std::string bytes(size, '?');
    const iovec pieces[] = {{bytes.data(), size / 2}, {bytes.data() + size / 2, size - size / 2}};
    EXPECT_EQ(context.run_until(node.read(offset, pieces)), 0);
    return bytes;
  }
  int write(Node& node, uint64_t offset, const std::string& bytes) {
    return context.run_until(write_bytes(node, offset, bytes.data(), bytes.size()));
  }
  int zero(Node& node, uint64_t offset, uint64_t bytes, bool may_unmap) {
    return context.run_until(write_zeroes_anyhow(node, offset, bytes, {.may_unmap = may_unmap}));
  }
  int discard(Node& node, uint64_t offset, uint64_t bytes) {
    return context.run_until(node.discard(offset, bytes));
  }
  int flush(Node& node) { return context.run_until(node.flush()); }

  const ostler::test::TempFolder own_folder;
  const std::string folder = own_folder.path();
  IoContext context;
  Opener opener;
};

}  // namespace ostler::block::test
