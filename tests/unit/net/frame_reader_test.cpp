// Frames out of a stream, whole, in pieces and false.
#include "net/frame_reader.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace ostler::net {
namespace {

std::string packed(const std::string& frame) {
  const uint32_t length = htonl(static_cast<uint32_t>(frame.size()));
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + frame;
}

// Gives `bytes` to the reader, at most `piece` at a time, and takes what comes.
std::vector<std::string> read_all(FrameReader& reader, std::string_view bytes, size_t piece) {
  std::vector<std::string> frames;
  while (!bytes.empty() && !reader.broken()) {
    const auto space = reader.space();
    const size_t size = std::min({piece, bytes.size(), space.size()});
    EXPECT_GT(size, 0u);
    std::memcpy(space.data(), bytes.data(), size);
    reader.filled(size);
    bytes.remove_prefix(size);
    while (const auto frame = reader.next()) {
      frames.emplace_back(reinterpret_cast<const char*>(frame->data()), frame->size());
      reader.pop();
    }
  }
  return frames;
}

TEST(FrameReader, frames_in_pieces_of_any_size) {
  std::vector<std::string> sent;
  std::string stream;
  for (size_t size : {14u, 60u, 1514u, 65554u, 15u, 65554u, 65554u, 100u}) {
    sent.emplace_back(size, static_cast<char>('a' + sent.size()));
    stream += packed(sent.back());
  }
  for (size_t piece : {1u, 3u, 4096u, 1000000u}) {
    FrameReader reader;
    EXPECT_EQ(read_all(reader, stream, piece), sent) << piece;
    EXPECT_FALSE(reader.broken());
  }
}

TEST(FrameReader, too_short_for_a_frame_is_skipped) {
  FrameReader reader;
  const std::string good(60, 'x');
  EXPECT_EQ(read_all(reader, packed("") + packed("short") + packed(good), 1000),
            std::vector<std::string>{good});
}

TEST(FrameReader, a_length_beyond_any_frame_breaks_the_stream) {
  for (const uint32_t length : {uint32_t{kMaxFrame + 1}, 0x7fffffffu, 0xffffffffu}) {
    FrameReader reader;
    const uint32_t wire = htonl(length);
    const std::string bytes = packed(std::string(60, 'x')) +
                              std::string(reinterpret_cast<const char*>(&wire), 4) + std::string(60, 'y');
    EXPECT_EQ(read_all(reader, bytes, 1000).size(), 1u);
    EXPECT_TRUE(reader.broken());
    reader.reset();
    EXPECT_FALSE(reader.broken());
    EXPECT_EQ(read_all(reader, packed(std::string(60, 'z')), 1000).size(), 1u);
  }
}

}  // namespace
}  // namespace ostler::net
