#include "bt/listing.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/symbols.h"
#include "rig.h"

namespace ostler::bt {
namespace {

std::string list(const std::vector<uint8_t>& bytes) {
  return guest_listing(read_block(bytes));
}

TEST(Listing, NamesTheBlockWhereItsNameIsKnown) {
  EXPECT_NE(list({0x90, 0xf4}).find("block 0x10000 phys 0x10000"), std::string::npos);
  symbols::set({{kText - 16, 64, "idle"}});
  EXPECT_NE(list({0x90, 0xf4}).find("block 0x10000 <idle+0x10> phys 0x10000"), std::string::npos);
  symbols::set({});
}

TEST(Listing, ALoopIsListedOnceAsItStands) {
  // mov al, [rsi]; inc rsi; dec rcx; jnz back; hlt
  const std::string text = list({0x8a, 0x06, 0x48, 0xff, 0xc6, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xf4});
  EXPECT_NE(text.find(", 4 times\n"), std::string::npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5) << text;
  EXPECT_NE(text.find("jnz 0x10000"), std::string::npos) << text;
}

}  // namespace
}  // namespace ostler::bt
