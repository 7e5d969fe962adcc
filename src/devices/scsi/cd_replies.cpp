// Commands that answer with a table (SPC-3 §6, MMC-5 §6 and §7).
#include <algorithm>

#include "devices/scsi/cd_unit.h"

namespace ostler::scsi {
namespace {

constexpr uint32_t kFramesPerSecond = 75, kLeadIn = 150;  // MMC-5 §4.2.3.4
constexpr uint8_t kDataTrack = 0x14, kLeadOut = 0xaa;
// More than the longest CD, in blocks (80 minutes).
constexpr uint32_t kMostCdBlocks = 80 * 60 * kFramesPerSecond;
constexpr unsigned kProfileCd = 0x0008, kProfileDvd = 0x0010;

}  // namespace

bool CdUnit::is_dvd() const {
  return blocks() > kMostCdBlocks;
}

// SPC-3 §6.4.
CdUnit::Outcome CdUnit::inquiry() {
  if ((byte(1) & 1) != 0 || byte(2) != 0) return fail(sense::kInvalidField);
  data_.assign(36, std::byte{0});
  put(data_, 0, 0x05);  // CD and DVD drives
  put(data_, 1, 0x80);  // removable
  put(data_, 3, 0x21);  // ATAPI; the format of this answer
  put(data_, 4, 36 - 5);
  put_text(data_, 8, 8, "OSTLER");
  put_text(data_, 16, 16, model_);
  put_text(data_, 32, 4, version_);
  return reply(36, be(3, 2));
}

// MMC-5 §6.26.
CdUnit::Outcome CdUnit::read_toc() {
  const bool minutes = (byte(1) & 2) != 0;
  const unsigned format = byte(2) & 15;
  const uint32_t first = byte(6);
  const auto address = [&](size_t at, uint32_t block) {
    if (!minutes) return put(data_, at, block, 4);
    const uint32_t frames = block + kLeadIn;
    put(data_, at, 0);
    put(data_, at + 1, frames / kFramesPerSecond / 60);
    put(data_, at + 2, frames / kFramesPerSecond % 60);
    put(data_, at + 3, frames % kFramesPerSecond);
  };
  data_.assign(64, std::byte{0});
  size_t bytes = 4;
  put(data_, 2, 1);
  put(data_, 3, 1);
  const auto track = [&](uint8_t number, uint32_t block) {
    put(data_, bytes + 1, kDataTrack);
    put(data_, bytes + 2, number);
    address(bytes + 4, block);
    bytes += 8;
  };
  if (format == 0) {
    if (first > 1 && first != kLeadOut) return fail(sense::kInvalidField);
    if (first <= 1) track(1, 0);
    track(kLeadOut, blocks());
  } else if (format == 1) {  // of sessions
    track(1, 0);
  } else if (format == 2) {  // as the lead-in has it
    const auto point = [&](uint8_t number, uint32_t block, bool is_address, uint8_t value) {
      put(data_, bytes, 1);
      put(data_, bytes + 1, kDataTrack);
      put(data_, bytes + 3, number);
      if (is_address) {
        const uint32_t frames = block + kLeadIn;
        put(data_, bytes + 8, frames / kFramesPerSecond / 60);
        put(data_, bytes + 9, frames / kFramesPerSecond % 60);
        put(data_, bytes + 10, frames % kFramesPerSecond);
      } else {
        put(data_, bytes + 8, value);
      }
      bytes += 11;
    };
    point(0xa0, 0, false, 1);
    point(0xa1, 0, false, 1);
    point(0xa2, blocks(), true, 0);
    point(1, 0, true, 0);
  } else {
    return fail(sense::kInvalidField);
  }
  put(data_, 0, static_cast<unsigned>(bytes - 2), 2);
  return reply(bytes, be(7, 2));
}

// MMC-5 §6.25: nothing plays.
CdUnit::Outcome CdUnit::read_sub_channel() {
  data_.assign(24, std::byte{0});
  if ((byte(2) & 0x40) == 0) return reply(4, be(7, 2));
  if (byte(3) != 2 && byte(3) != 3) return fail(sense::kInvalidField);
  put(data_, 2, 20, 2);
  put(data_, 4, byte(3));  // catalogue number, recording code: there is none
  return reply(24, be(7, 2));
}

// MMC-5 §6.6, features §5.
CdUnit::Outcome CdUnit::get_configuration() {
  const unsigned kind = byte(1) & 3, start = be(2, 2);
  if (kind == 3) return fail(sense::kInvalidField);
  const unsigned profile = !has_medium() ? 0 : is_dvd() ? kProfileDvd : kProfileCd;
  data_.assign(256, std::byte{0});
  size_t bytes = 8;
  // `flags`: version << 2 | persistent << 1 | current.
  const auto feature = [&](unsigned code, unsigned version, bool persistent, bool current,
                           std::initializer_list<uint8_t> data) {
    const bool wanted = kind == 2 ? code == start : code >= start;
    if (!wanted || (kind == 1 && !current)) return;
    put(data_, bytes, code, 2);
    put(data_, bytes + 2, version << 2 | (persistent ? 2u : 0u) | (current ? 1u : 0u));
    put(data_, bytes + 3, static_cast<unsigned>(data.size()));
    bytes += 4;
    for (const uint8_t each : data) put(data_, bytes++, each);
  };
  const bool cd = profile == kProfileCd, dvd = profile == kProfileDvd;
  feature(0x0000, 0, true, true,
          {0, kProfileDvd, static_cast<uint8_t>(dvd), 0, 0, kProfileCd, static_cast<uint8_t>(cd), 0});
  feature(0x0001, 2, true, true, {0, 0, 0, static_cast<uint8_t>(bus_), 1, 0, 0, 0});  // core
  feature(0x0002, 1, true, true, {2, 0, 0, 0});     // morphing: events of operational changes
  feature(0x0003, 0, true, true, {0x29, 0, 0, 0});  // removable: a tray that locks and ejects
  feature(0x0010, 0, false, cd || dvd, {0, 0, 8, 0, 0, 1, 0, 0});
  feature(0x001e, 0, false, cd, {0, 0, 0, 0});
  feature(0x001f, 0, false, dvd, {});
  feature(0x0100, 0, true, true, {});
  feature(0x0105, 0, true, true, {});
  put(data_, 0, static_cast<uint32_t>(bytes - 4), 4);
  put(data_, 6, profile, 2);
  return reply(bytes, be(7, 2));
}

// MMC-5 §6.7: media events, when asked (polled).
CdUnit::Outcome CdUnit::get_event_status() {
  constexpr unsigned kMedia = 4;
  if ((byte(1) & 1) == 0) return fail(sense::kInvalidField);
  data_.assign(8, std::byte{0});
  put(data_, 3, 1u << kMedia);
  const bool asked = (byte(4) >> kMedia & 1) != 0;
  if (!asked) {
    put(data_, 0, 2, 2);
    put(data_, 2, 0x80);  // no such event
    return reply(4, be(7, 2));
  }
  put(data_, 0, 6, 2);
  put(data_, 2, kMedia);
  put(data_, 4, static_cast<unsigned>(event_));
  put(data_, 5, (tray_open_ ? 1u : 0u) | (has_medium() ? 2u : 0u));
  event_ = MediaEvent::kNone;
  return reply(8, be(7, 2));
}

// MMC-5 §6.22.
CdUnit::Outcome CdUnit::read_disc_information() {
  if ((byte(1) & 7) != 0) return fail(sense::kInvalidField);
  data_.assign(34, std::byte{0});
  put(data_, 0, 32, 2);
  put(data_, 2, 0x0e);  // the disc and its last session are complete
  for (const size_t one : {3u, 4u, 5u, 6u}) put(data_, one, 1);
  put(data_, 7, 0x20);
  return reply(34, be(7, 2));
}

// MMC-5 §6.10.
CdUnit::Outcome CdUnit::mechanism_status() {
  data_.assign(8, std::byte{0});
  put(data_, 1, tray_open_ ? 0x10 : 0);
  put(data_, 5, 1);
  return reply(8, be(8, 2));
}

// One page's bytes, at `at`; how many. 0: there is no such page. `control`: 0 current, 1 changeable, 2
// default.
size_t CdUnit::put_page(size_t at, uint8_t page, uint8_t control) {
  const size_t length = page == 0x01 ? 12 : page == 0x0e ? 16 : page == 0x2a ? 22 : 0;
  if (length == 0) return 0;
  data_.resize(at + length);
  put(data_, at, page);
  put(data_, at + 1, static_cast<unsigned>(length - 2));
  if (control == 1) return length;  // nothing can be changed
  if (page == 0x01) {
    put(data_, at + 3, 1);  // retries
  } else if (page == 0x0e) {
    put(data_, at + 2, 4);
  } else {
    put(data_, at + 2, 0x0b);                   // reads CD-R, CD-RW, DVD-ROM
    put(data_, at + 4, 0x70);                   // mode 2 form 1 and 2, sessions
    put(data_, at + 6, locked_ ? 0x2b : 0x29);  // a tray that locks and ejects
    put(data_, at + 8, 8467, 2);                // kB/s: 48 times
    put(data_, at + 12, 512, 2);                // KiB of buffer
    put(data_, at + 14, 8467, 2);
  }
  return length;
}

// SPC-3 §6.9, §6.10, pages MMC-5 §7. `ten`: bytes of the command block.
CdUnit::Outcome CdUnit::mode_sense(bool ten) {
  const auto control = static_cast<uint8_t>(byte(2) >> 6);
  const auto page = static_cast<uint8_t>(byte(2) & 0x3f);
  if (control == 3) return fail(sense::kSavingUnsupported);
  const size_t header = ten ? 8 : 4;
  data_.assign(header, std::byte{0});
  size_t bytes = header;
  for (const uint8_t each : {uint8_t{0x01}, uint8_t{0x0e}, uint8_t{0x2a}})
    if (page == 0x3f || page == each) bytes += put_page(bytes, each, control);
  if (bytes == header) return fail(sense::kInvalidField);
  put(data_, 0, bytes - (ten ? 2 : 1), ten ? 2 : 1);
  if (!has_medium()) put(data_, ten ? 2 : 1, tray_open_ ? 0x71 : 0x70);  // tray open; no disc
  return reply(bytes, ten ? be(7, 2) : byte(4));
}

}  // namespace ostler::scsi
