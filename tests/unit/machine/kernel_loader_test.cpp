// What a kernel's image leaves in guest memory.
#include "machine/kernel_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "memory/address_space.h"
#include "support/temp_folder.h"
#include "unit/boot/kernels.h"
#include "x86/state.h"

namespace ostler::machine {
namespace {

TEST(KernelLoader, BytesThatASegmentHasInMemoryOnlyAreZeroAfterAReset) {
  constexpr uint64_t kRam = 64 * kMebibyte, kInMemory = 0x3000;
  const test::TempFolder folder;
  const std::string path = folder / "kernel";
  const auto file = boot::testing::elf_kernel(true, kInMemory);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(file.data()), std::ssize(file));
  auto block = memory::RamBlock::create({.name = "ram", .size = kRam});
  ASSERT_TRUE(block.has_value());
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram("ram", *block);
  {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  memory::Dma dma(space);
  // As the guest left it.
  ASSERT_TRUE(dma.fill(GuestPhys{0}, kRam, std::byte{0xee}));
  config::Machine config;
  config.kernel = path;
  config.append = "given by=user";
  x86::CpuState state;
  const auto done = boot_kernel(config, "from.machine", MemoryLayout(kRam), kRsdp,
                                boot::Request::Protocol::kAuto, *x86::CpuModel::parse("max"), dma, state);
  ASSERT_TRUE(done.has_value()) << done.error().message();
  std::vector<std::byte> memory(kInMemory + 1);
  ASSERT_TRUE(dma.read(GuestPhys{boot::testing::kLoadAddress}, memory));
  constexpr std::string_view kText = boot::testing::kPayload;
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(memory.data()), kText.size()), kText);
  EXPECT_EQ(std::count(memory.begin() + kText.size(), memory.end() - 1, std::byte{0}),
            static_cast<std::ptrdiff_t>(kInMemory - kText.size()));
  EXPECT_EQ(memory.back(), std::byte{0xee});
  std::string whole(kRam, ' ');
  ASSERT_TRUE(dma.read(GuestPhys{0}, std::as_writable_bytes(std::span(whole))));
  EXPECT_NE(whole.find(std::string_view("from.machine given by=user", 27)), std::string::npos);
}

// It would end in a triple fault at its first WRMSR.
TEST(KernelLoader, A64BitKernelNeedsA64BitProcessor) {
  const test::TempFolder folder;
  const std::string path = folder / "kernel";
  const auto file = boot::testing::elf_kernel(true, 0x2000);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(file.data()), std::ssize(file));
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::Dma dma(space);
  config::Machine config;
  config.kernel = path;
  x86::CpuState state;
  const auto done = boot_kernel(config, "", MemoryLayout(64 << 20), kRsdp, boot::Request::Protocol::kAuto,
                                *x86::CpuModel::parse("pentium3"), dma, state);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("-cpu pentium3: -kernel '" + path), std::string::npos)
      << done.error().message();
}

}  // namespace
}  // namespace ostler::machine
