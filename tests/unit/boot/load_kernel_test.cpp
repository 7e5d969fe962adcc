#include <gtest/gtest.h>
#include <zstd.h>

#include "boot/image.h"
#include "kernels.h"
#include "x86/state.h"

namespace ostler::boot {
namespace {

using testing::Bytes;

Bytes zstd(const Bytes& from) {
  Bytes out(ZSTD_compressBound(from.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), from.data(), from.size(), 3));
  return out;
}

TEST(LoadKernel, ElfWithPvhNoteStartsAtItsPvhEntry) {
  const Bytes file = testing::elf_kernel(true);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value()) << image.error().message();
  EXPECT_EQ(image->entry, Entry::kProtected32);
  EXPECT_EQ(image->rip, testing::kPvhEntry);
  EXPECT_EQ(image->rbx, kStartInfoAddress.value);
}

TEST(LoadKernel, SegmentIsZeroFilledToItsMemorySize) {
  constexpr uint64_t kMemorySize = 0x2000;
  const Bytes file = testing::elf_kernel(true, kMemorySize);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value());
  const Chunk* text = testing::chunk_at(*image, testing::kLoadAddress);
  ASSERT_NE(text, nullptr);
  EXPECT_EQ(text->size(), kMemorySize);
  EXPECT_EQ(testing::text_of(*text, testing::kPayload.size()), testing::kPayload);
  EXPECT_NE(text->zeros, 0u);
}

TEST(LoadKernel, PvhStartInfoNamesCommandLineRsdpAndMap) {
  const Bytes file = testing::elf_kernel(true);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value());
  const Chunk* info = testing::chunk_at(*image, kStartInfoAddress.value);
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(load_le<uint32_t>(&info->bytes()[0]), 0x336ec578u);
  EXPECT_EQ(load_le<uint64_t>(&info->bytes()[24]), kCommandLineAddress.value);
  EXPECT_EQ(load_le<uint64_t>(&info->bytes()[32]), 0xf0000u);
  EXPECT_EQ(load_le<uint32_t>(&info->bytes()[48]), 2u);
  const Chunk* line = testing::chunk_at(*image, kCommandLineAddress.value);
  ASSERT_NE(line, nullptr);
  EXPECT_STREQ(reinterpret_cast<const char*>(line->bytes().data()), "console=ttyS0");
}

TEST(LoadKernel, InitrdGoesToTheTopOfRamAndIsListedAsModule) {
  const Bytes file = testing::elf_kernel(true);
  const Bytes initrd(5000, 0x5a);
  Request request = testing::request_for(file);
  request.initrd = initrd;
  const auto image = load_kernel(request);
  ASSERT_TRUE(image.has_value()) << image.error().message();
  const uint64_t expected = (64u << 20) - 8192;  // 5000 bytes, page-aligned downwards
  const Chunk* chunk = testing::chunk_at(*image, expected);
  ASSERT_NE(chunk, nullptr);
  EXPECT_TRUE(std::ranges::equal(chunk->bytes(), initrd));
  const Chunk* info = testing::chunk_at(*image, kStartInfoAddress.value);
  const uint64_t module = load_le<uint64_t>(&info->bytes()[16]) - kStartInfoAddress.value;
  EXPECT_EQ(load_le<uint64_t>(&info->bytes()[module]), expected);
  EXPECT_EQ(load_le<uint64_t>(&info->bytes()[module + 8]), 5000u);
}

TEST(LoadKernel, InitrdLargerThanMemoryIsOneSentence) {
  const Bytes file = testing::elf_kernel(true);
  const Bytes initrd(60u << 20);
  Request request = testing::request_for(file);
  request.initrd = initrd;
  const auto image = load_kernel(request);
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().kind(), ErrorKind::kNoResource);
  EXPECT_EQ(image.error().message(),
            "-initrd 'i': 60 MiB do not fit beside the kernel in 64 MiB of guest memory; give more with -m");
}

TEST(LoadKernel, KernelLargerThanMemoryNamesTheCure) {
  const Bytes file = testing::elf_kernel(true, 100u << 20);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_FALSE(image.has_value());
  EXPECT_NE(image.error().message().find("give more with -m"), std::string::npos);
}

TEST(LoadKernel, ElfWithoutNoteIsRefused) {
  const Bytes file = testing::elf_kernel(false);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().kind(), ErrorKind::kUnsupported);
}

TEST(LoadKernel, BzImageIsUnpackedAndStartsByPvh) {
  const Bytes file = testing::bzimage(zstd(testing::elf_kernel(true)));
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value()) << image.error().message();
  EXPECT_EQ(image->protocol, "PVH");
}

TEST(LoadKernel, BzImageWithoutPvhNoteFallsBackTo64BitEntry) {
  const Bytes file = testing::bzimage(zstd(testing::elf_kernel(false)));
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value()) << image.error().message();
  EXPECT_EQ(image->entry, Entry::kLong64);
  EXPECT_EQ(image->rip, testing::kLoadAddress + 0x200u);
  EXPECT_EQ(image->rsi, kZeroPageAddress.value);
}

TEST(LoadKernel, ZeroPageHoldsHeaderMapAndCommandLine) {
  const Bytes file = testing::bzimage(zstd(testing::elf_kernel(true)));
  Request request = testing::request_for(file);
  request.protocol = Request::Protocol::kLinux64;
  const auto image = load_kernel(request);
  ASSERT_TRUE(image.has_value()) << image.error().message();
  const Chunk* zero = testing::chunk_at(*image, kZeroPageAddress.value);
  ASSERT_NE(zero, nullptr);
  EXPECT_EQ(std::memcmp(&zero->bytes()[0x202], "HdrS", 4), 0);
  EXPECT_EQ(zero->bytes()[0x1e8], 2);
  EXPECT_EQ(load_le<uint64_t>(&zero->bytes()[0x2d0 + 20]), 0x100000u);
  EXPECT_EQ(load_le<uint32_t>(&zero->bytes()[0x228]), kCommandLineAddress.value);
  EXPECT_EQ(load_le<uint64_t>(&zero->bytes()[0x70]), 0xf0000u);
}

TEST(LoadKernel, TruncatedBzImageIsCalledCutShort) {
  Bytes file = testing::bzimage(zstd(testing::elf_kernel(true)));
  file.resize(file.size() - 40);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().kind(), ErrorKind::kCorrupt);
  EXPECT_NE(image.error().message().find("-kernel 'k': it is cut short"), std::string::npos)
      << image.error().message();
}

TEST(LoadKernel, EveryTruncationIsAnErrorNotACrash) {
  const Bytes file = testing::bzimage(zstd(testing::elf_kernel(true)));
  for (size_t size = 0; size < file.size(); ++size) {
    const Bytes cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(load_kernel(testing::request_for(cut)).has_value()) << size;
  }
}

TEST(LoadKernel, MultibootWithAddressesLoadsWhereItSays) {
  constexpr uint32_t kAt = 0x200000, kFlags = 1u << 16;
  Bytes file(0x100);
  const uint32_t header[] = {0x1badb002,   kFlags,    0u - 0x1badb002 - kFlags, kAt, kAt, 0,
                             kAt + 0x1000, kAt + 0x20};
  std::memcpy(file.data(), header, sizeof header);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value()) << image.error().message();
  EXPECT_EQ(image->protocol, "multiboot");
  EXPECT_EQ(image->rip, kAt + 0x20);
  EXPECT_EQ(image->rax, 0x2badb002u);
  const Chunk* text = testing::chunk_at(*image, kAt);
  ASSERT_NE(text, nullptr);
  EXPECT_EQ(text->size(), 0x1000u);
}

TEST(LoadKernel, SomethingElseIsNotAKernel) {
  const Bytes file(1000, 'x');
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().message(), "-kernel 'k': it is neither a bzImage nor an ELF or multiboot kernel");
}

TEST(ImageApply, ProtectedEntryHasFlatSegmentsAndNoPaging) {
  const Bytes file = testing::elf_kernel(true);
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value());
  x86::CpuState state;
  image->apply(state);
  EXPECT_EQ(state.cr0 & (x86::cr0::kPe | x86::cr0::kPg), x86::cr0::kPe);
  EXPECT_FALSE(state.code64());
  EXPECT_EQ(state.seg[x86::kDs].limit, 0xffffffffu);
  EXPECT_EQ(state.rip, testing::kPvhEntry);
}

TEST(ImageApply, LongEntryIsIn64BitMode) {
  const Bytes file = testing::bzimage(zstd(testing::elf_kernel(false)));
  const auto image = load_kernel(testing::request_for(file));
  ASSERT_TRUE(image.has_value());
  x86::CpuState state;
  image->apply(state);
  EXPECT_TRUE(state.code64());
  EXPECT_EQ(state.cr3, kPageTablesAddress.value);
}

}  // namespace
}  // namespace ostler::boot
