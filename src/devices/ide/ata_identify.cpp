// IDENTIFY DEVICE (ACS-2 §7.12): each word as the table there has it.
#include <algorithm>
#include <bit>

#include "devices/ide/ata_disk.h"
#include "devices/ide/identify.h"

namespace ostler::ide {
namespace {

constexpr uint64_t kMost28 = 0x0fff'ffff;
constexpr unsigned kValid = 0x4000;  // bits 15:14 of words that say so are 01

}  // namespace

void AtaDisk::identify() {
  IdentifyData data(buffer());
  const uint64_t total = sectors();
  data.word(0, 0x0040);
  const auto cylinders = static_cast<unsigned>(std::min<uint64_t>(total / (16 * 63), 16383));
  data.word(1, cylinders);
  data.word(3, 16);
  data.word(6, 63);
  data.text(10, 10, options_.serial);
  data.text(23, 4, options_.version);
  data.text(27, 20, options_.model);
  data.word(47, 0x8010);  // READ MULTIPLE: at most 16
  data.word(49, 0x0f00);  // DMA, LBA, IORDY
  data.word(50, kValid);
  data.word(51, 0x0200);
  data.word(53, 0x0007);
  data.word(54, cylinders_);
  data.word(55, heads_);
  data.word(56, sectors_per_track_);
  data.number(57, std::min<uint64_t>(uint64_t{cylinders_} * heads_ * sectors_per_track_, kMost28), 2);
  data.word(59, multiple_ == 0 ? 0u : 0x0100u | multiple_);
  data.number(60, std::min(total, kMost28), 2);
  const bool ultra = (dma_mode_ & 0x40) != 0;
  data.word(63, 0x0007 | (ultra ? 0u : 0x0100u << (dma_mode_ & 7)));
  data.word(64, 0x0003);
  for (unsigned word = 65; word <= 68; ++word) data.word(word, 120);  // ns of a cycle
  data.word(80, 0x01f0);                                              // ATA/ATAPI-4 to ATA8-ACS
  // Supported and enabled: SMART, power management, write cache, look-ahead, the buffer commands, NOP;
  // 48-bit addresses and both flushes; FUA.
  const unsigned fixed = 0x7008;
  data.word(82, fixed | 0x0061);
  data.word(83, kValid | 0x3400);
  data.word(84, kValid | 0x0040 | (options_.wwn != 0 ? 0x0100u : 0u));
  data.word(85, fixed | (smart_ ? 1u : 0u) | (write_cache_ ? 0x20u : 0u) | (look_ahead_ ? 0x40u : 0u));
  data.word(86, 0x3400);
  data.word(87, kValid | 0x0040 | (options_.wwn != 0 ? 0x0100u : 0u));
  data.word(88, 0x003f | (ultra ? 0x0100u << (dma_mode_ & 7) : 0u));
  data.word(93, 0x6001);  // the cable has 80 wires; the drive passed its test
  data.number(100, total, 4);
  if (options_.discard) {
    data.word(105, 8);
    data.word(169, 1);
  }
  const int exponent = std::countr_zero(options_.physical_block_size / kSector);
  data.word(106, kValid | (exponent != 0 ? 0x2000u | static_cast<unsigned>(exponent) : 0u));
  for (unsigned i = 0; i < 4; ++i) data.word(108 + i, static_cast<uint16_t>(options_.wwn >> (48 - 16 * i)));
  data.word(217, options_.rotation_rate);
  data.seal();
  offer_sector();
}

}  // namespace ostler::ide
