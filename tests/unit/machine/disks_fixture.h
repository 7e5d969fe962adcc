// The disks that a command line makes, without a machine: requests as plain calls.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "config/qemu_command_line.h"
#include "machine/disks.h"
#include "support/temp_folder.h"

namespace ostler::machine::test {

class DisksTest : public testing::Test {
 protected:
  using Backend = block::Backend*;  // the disks own it

  void TearDown() override { disks.reset(); }
  std::string path(const std::string& name) const { return folder + "/" + name; }
  std::string make_file(const std::string& name, const std::string& content) {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  std::string content_of(const std::string& name) {
    std::ifstream stream(path(name), std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(stream)), {});
  }
  static void qemu_img(const std::string& arguments) {
    ASSERT_EQ(std::system(("qemu-img " + arguments + " >/dev/null").c_str()), 0) << arguments;
  }

  // The message of the error, "" when all is open. '@' in a word is the folder.
  std::string try_open(std::vector<std::string> words) {
    for (std::string& word : words)
      for (size_t at = word.find('@'); at != std::string::npos; at = word.find('@'))
        word.replace(at, 1, folder);
    const auto command = config::parse_qemu_command_line(words);
    if (!command) return command.error().message();
    auto made = Disks::create(command->machine, [this](const std::string& disk, int error) {
      stopped_disk = disk;
      stop_error = error;
    });
    if (!made) return made.error().message();
    disks = *std::move(made);
    return {};
  }
  void open(std::vector<std::string> words) { ASSERT_EQ(try_open(std::move(words)), ""); }

  Backend take(const std::string& name) { return take({.name = name, .user = "-device test"}).at(0); }
  std::vector<Backend> take(const DiskWish& wish) {
    auto taken = disks->take(wish);
    EXPECT_TRUE(taken) << (taken ? "" : taken.error().message());
    std::vector<Backend> queues(wish.iothreads.size());
    for (size_t i = 0; taken && i < queues.size(); ++i) queues[i] = (*taken)[i].get();
    return queues;
  }
  std::string take_error(const DiskWish& wish) {
    auto taken = disks->take(wish);
    return taken ? "" : taken.error().message();
  }
  static block::NodePtr node_of(Backend disk) {
    return static_cast<block::NodeBackend*>(disk)->client().node();
  }

  static int write(Backend disk, uint64_t offset, std::string bytes) {
    std::promise<int> result;
    disk->write(offset, {{bytes.data(), bytes.size()}}, [&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  static std::string read(Backend disk, uint64_t offset, size_t size) {
    std::string bytes(size, '?');
    std::promise<int> result;
    disk->read(offset, {{bytes.data(), size}}, [&](int error) { result.set_value(error); });
    EXPECT_EQ(result.get_future().get(), 0);
    return bytes;
  }

  const ostler::test::TempFolder own_folder;
  const std::string folder = own_folder.path();
  std::string stopped_disk;
  std::atomic<int> stop_error{0};
  std::unique_ptr<Disks> disks;
};

}  // namespace ostler::machine::test
