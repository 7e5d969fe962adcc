// Packet commands that answer with a table (SPC-3 §6, MMC-5 §6 and §7).
#include <algorithm>

#include "devices/ide/cd_drive.h"

namespace ostler::ide {
namespace {

constexpr uint8_t kInvalidField = 0x24;
constexpr uint32_t kFramesPerSecond = 75, kLeadIn = 150;  // MMC-5 §4.2.3.4
constexpr uint8_t kDataTrack = 0x14, kLeadOut = 0xaa;
// More than the longest CD, in blocks (80 minutes).
constexpr uint32_t kMostCdBlocks = 80 * 60 * kFramesPerSecond;
constexpr unsigned kProfileCd = 0x0008, kProfileDvd = 0x0010;

}  // namespace

void CdDrive::put16(size_t at, unsigned value) {
  put(at, value >> 8);
  put(at + 1, value);
}

void CdDrive::put32(size_t at, uint32_t value) {
  put16(at, value >> 16);
  put16(at + 2, value);
}

void CdDrive::clear(size_t bytes) {
  std::fill_n(buffer().begin(), bytes, std::byte{0});
}

void CdDrive::put_text(size_t at, size_t bytes, const std::string& text) {
  for (size_t i = 0; i < bytes; ++i) put(at + i, i < text.size() ? static_cast<uint8_t>(text[i]) : ' ');
}

bool CdDrive::is_dvd() const {
  return blocks() > kMostCdBlocks;
}

// SPC-3 §6.4.
void CdDrive::inquiry() {
  if ((byte(1) & 1) != 0 || byte(2) != 0) return check_condition({5, kInvalidField, 0});
  clear(36);
  put(0, 0x05);  // CD and DVD drives
  put(1, 0x80);  // removable
  put(3, 0x21);  // ATAPI; the format of this answer
  put(4, 36 - 5);
  put_text(8, 8, "OSTLER");
  put_text(16, 16, options_.model);
  put_text(32, 4, options_.version);
  reply(36, be16(3));
}

// MMC-5 §6.26.
void CdDrive::read_toc() {
  const bool minutes = (byte(1) & 2) != 0;
  const unsigned format = byte(2) & 15;
  const uint32_t first = byte(6);
  const auto address = [&](size_t at, uint32_t block) {
    if (!minutes) return put32(at, block);
    const uint32_t frames = block + kLeadIn;
    put(at, 0);
    put(at + 1, frames / kFramesPerSecond / 60);
    put(at + 2, frames / kFramesPerSecond % 60);
    put(at + 3, frames % kFramesPerSecond);
  };
  clear(64);
  size_t bytes = 4;
  put(2, 1);
  put(3, 1);
  const auto track = [&](uint8_t number, uint32_t block) {
    put(bytes + 1, kDataTrack);
    put(bytes + 2, number);
    address(bytes + 4, block);
    bytes += 8;
  };
  if (format == 0) {
    if (first > 1 && first != kLeadOut) return check_condition({5, kInvalidField, 0});
    if (first <= 1) track(1, 0);
    track(kLeadOut, blocks());
  } else if (format == 1) {  // of sessions
    track(1, 0);
  } else if (format == 2) {  // as the lead-in has it
    const auto point = [&](uint8_t number, uint32_t block, bool is_address, uint8_t value) {
      put(bytes, 1);
      put(bytes + 1, kDataTrack);
      put(bytes + 3, number);
      if (is_address) {
        const uint32_t frames = block + kLeadIn;
        put(bytes + 8, frames / kFramesPerSecond / 60);
        put(bytes + 9, frames / kFramesPerSecond % 60);
        put(bytes + 10, frames % kFramesPerSecond);
      } else {
        put(bytes + 8, value);
      }
      bytes += 11;
    };
    point(0xa0, 0, false, 1);
    point(0xa1, 0, false, 1);
    point(0xa2, blocks(), true, 0);
    point(1, 0, true, 0);
  } else {
    return check_condition({5, kInvalidField, 0});
  }
  put16(0, static_cast<unsigned>(bytes - 2));
  reply(bytes, be16(7));
}

// MMC-5 §6.25: nothing plays.
void CdDrive::read_sub_channel() {
  clear(24);
  if ((byte(2) & 0x40) == 0) return reply(4, be16(7));
  if (byte(3) != 2 && byte(3) != 3) return check_condition({5, kInvalidField, 0});
  put16(2, 20);
  put(4, byte(3));  // catalogue number, recording code: there is none
  reply(24, be16(7));
}

// MMC-5 §6.6, features §5.
void CdDrive::get_configuration() {
  const unsigned kind = byte(1) & 3, start = be16(2);
  if (kind == 3) return check_condition({5, kInvalidField, 0});
  const unsigned profile = !has_medium() ? 0 : is_dvd() ? kProfileDvd : kProfileCd;
  clear(256);
  size_t bytes = 8;
  // `flags`: version << 2 | persistent << 1 | current.
  const auto feature = [&](unsigned code, unsigned version, bool persistent, bool current,
                           std::initializer_list<uint8_t> data) {
    const bool wanted = kind == 2 ? code == start : code >= start;
    if (!wanted || (kind == 1 && !current)) return;
    put16(bytes, code);
    put(bytes + 2, version << 2 | (persistent ? 2u : 0u) | (current ? 1u : 0u));
    put(bytes + 3, static_cast<unsigned>(data.size()));
    bytes += 4;
    for (const uint8_t each : data) put(bytes++, each);
  };
  const bool cd = profile == kProfileCd, dvd = profile == kProfileDvd;
  feature(0x0000, 0, true, true,
          {0, kProfileDvd, static_cast<uint8_t>(dvd), 0, 0, kProfileCd, static_cast<uint8_t>(cd), 0});
  feature(0x0001, 2, true, true, {0, 0, 0, 2, 1, 0, 0, 0});  // core: ATAPI
  feature(0x0002, 1, true, true, {2, 0, 0, 0});              // morphing: events of operational changes
  feature(0x0003, 0, true, true, {0x29, 0, 0, 0});           // removable: a tray that locks and ejects
  feature(0x0010, 0, false, cd || dvd, {0, 0, 8, 0, 0, 1, 0, 0});
  feature(0x001e, 0, false, cd, {0, 0, 0, 0});
  feature(0x001f, 0, false, dvd, {});
  feature(0x0100, 0, true, true, {});
  feature(0x0105, 0, true, true, {});
  put32(0, static_cast<uint32_t>(bytes - 4));
  put16(6, profile);
  reply(bytes, be16(7));
}

// MMC-5 §6.7: media events, when asked (polled).
void CdDrive::get_event_status() {
  constexpr unsigned kMedia = 4;
  if ((byte(1) & 1) == 0) return check_condition({5, kInvalidField, 0});
  clear(8);
  put(3, 1u << kMedia);
  const bool asked = (byte(4) >> kMedia & 1) != 0;
  if (!asked) {
    put16(0, 2);
    put(2, 0x80);  // no such event
    return reply(4, be16(7));
  }
  put16(0, 6);
  put(2, kMedia);
  put(4, static_cast<unsigned>(event_));
  put(5, (tray_open_ ? 1u : 0u) | (has_medium() ? 2u : 0u));
  event_ = MediaEvent::kNone;
  reply(8, be16(7));
}

// MMC-5 §6.22.
void CdDrive::read_disc_information() {
  if ((byte(1) & 7) != 0) return check_condition({5, kInvalidField, 0});
  clear(34);
  put16(0, 32);
  put(2, 0x0e);  // the disc and its last session are complete
  for (const size_t one : {3u, 4u, 5u, 6u}) put(one, 1);
  put(7, 0x20);
  reply(34, be16(7));
}

// MMC-5 §6.10.
void CdDrive::mechanism_status() {
  clear(8);
  put(1, tray_open_ ? 0x10 : 0);
  put(5, 1);
  reply(8, be16(8));
}

// One page's bytes, at `at`; how many. 0: there is no such page. `control`: 0 current, 1 changeable, 2
// default.
size_t CdDrive::put_page(size_t at, uint8_t page, uint8_t control) {
  const size_t length = page == 0x01 ? 12 : page == 0x0e ? 16 : page == 0x2a ? 22 : 0;
  if (length == 0) return 0;
  std::fill_n(buffer().begin() + static_cast<ptrdiff_t>(at), length, std::byte{0});
  put(at, page);
  put(at + 1, static_cast<unsigned>(length - 2));
  if (control == 1) return length;  // nothing can be changed
  if (page == 0x01) {
    put(at + 3, 1);  // retries
  } else if (page == 0x0e) {
    put(at + 2, 4);
  } else {
    put(at + 2, 0x0b);                   // reads CD-R, CD-RW, DVD-ROM
    put(at + 4, 0x70);                   // mode 2 form 1 and 2, sessions
    put(at + 6, locked_ ? 0x2b : 0x29);  // a tray that locks and ejects
    put16(at + 8, 8467);                 // kB/s: 48 times
    put16(at + 12, 512);                 // KiB of buffer
    put16(at + 14, 8467);
  }
  return length;
}

// SPC-3 §6.10, pages MMC-5 §7.
void CdDrive::mode_sense() {
  const auto control = static_cast<uint8_t>(byte(2) >> 6);
  const auto page = static_cast<uint8_t>(byte(2) & 0x3f);
  if (control == 3) return check_condition({5, 0x39, 0});  // saving is not supported
  clear(8);
  size_t bytes = 8;
  for (const uint8_t each : {uint8_t{0x01}, uint8_t{0x0e}, uint8_t{0x2a}})
    if (page == 0x3f || page == each) bytes += put_page(bytes, each, control);
  if (bytes == 8) return check_condition({5, kInvalidField, 0});
  put16(0, static_cast<unsigned>(bytes - 2));
  if (!has_medium()) put(2, tray_open_ ? 0x71 : 0x70);  // tray open; no disc
  reply(bytes, be16(7));
}

}  // namespace ostler::ide
