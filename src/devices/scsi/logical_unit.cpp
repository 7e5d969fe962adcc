#include "devices/scsi/logical_unit.h"

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace ostler::scsi {
namespace {

constexpr uint8_t kRequestSense = 0x03, kInquiry = 0x12;
constexpr size_t kStandardInquiryBytes = 36;

// The last byte of a command block (SAM-5 §5.2); its group tells how long that is.
uint8_t control(const Command& command) {
  static constexpr uint8_t kLast[] = {5, 9, 9, 5, 15, 11, 5, 5};
  return command.byte(kLast[command.byte(0) >> 5]);
}

void end_with_reply(const std::shared_ptr<Command>& command, const Bytes& bytes, uint64_t allowed) {
  const uint64_t wanted = std::min<uint64_t>(bytes.size(), allowed);
  command->transferred = command->give(std::span(bytes).first(wanted));
  command->overrun = command->transferred < wanted;
  command->completed(command);
}

void end_with_sense(const std::shared_ptr<Command>& command, const Sense& sense) {
  command->status = Status::kCheckCondition;
  command->sense = sense;
  command->transferred = 0;
  command->completed(command);
}

Sense sense_of(bool is_read, int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return sense::kNoSpace;
    case EROFS:
    case EACCES:
    case EPERM:
      return is_read ? sense::kReadError : sense::kWriteProtected;
    case ENOMEDIUM:
      return sense::kNoMedium;
    default:
      return is_read ? sense::kReadError : sense::kWriteError;
  }
}

}  // namespace

LogicalUnit::LogicalUnit(DeviceKind kind, Options options) : kind_(kind), options_(std::move(options)) {}

void LogicalUnit::fail(const std::shared_ptr<Command>& command, const Sense& sense) {
  end_with_sense(command, sense);
}

void LogicalUnit::ended(block::Backend& backend, const std::shared_ptr<Command>& command, bool is_read,
                        int error) {
  using block::Verdict;
  if (error == 0) return good(command);
  log::trace(log::Subject::kDevices, "{}: a SCSI command failed with errno {}", backend.name(), error);
  switch (backend.judge(is_read, error)) {
    case Verdict::kIgnore:
      return good(command);
    case Verdict::kKeep:
      command->keep = error;
      return command->completed(command);
    case Verdict::kReport:
      return fail(command, sense_of(is_read, error));
  }
}

void LogicalUnit::reply(const std::shared_ptr<Command>& command, const Bytes& bytes, uint64_t allowed) {
  end_with_reply(command, bytes, allowed);
}

void LogicalUnit::execute(const std::shared_ptr<Command>& command) {
  // NACA, which INQUIRY says is not supported (SAM-5 §5.10.2).
  if ((control(*command) & 4) != 0) return fail(command, sense::kInvalidField);
  if (command->byte(0) == kInquiry) return inquiry(command);
  if (command->byte(0) == kRequestSense) return request_sense(command);
  if (const auto attention = take_attention(command->byte(0))) return fail(command, *attention);
  perform(command);
}

// SPC-4 §6.39. Sense data went with the command that failed: what can be left is an attention.
void LogicalUnit::request_sense(const std::shared_ptr<Command>& command) {
  reply(command, encode(take_attention(kRequestSense).value_or(Sense{}), (command->byte(1) & 1) != 0),
        command->byte(4));
}

// SPC-4 §6.6, §7.8.
void LogicalUnit::inquiry(const std::shared_ptr<Command>& command) {
  const uint64_t allowed = command->field(3, 2);
  const uint8_t page = command->byte(2);
  if ((command->byte(1) & 1) == 0) {
    if (page != 0) return fail(command, sense::kInvalidField);
    Bytes data(kStandardInquiryBytes);
    put(data, 0, static_cast<uint8_t>(kind_));
    put(data, 1, kind_ == DeviceKind::kCd ? 0x80 : 0);  // removable
    put(data, 2, 0x06);                                 // SPC-4
    put(data, 3, 0x12);                                 // LUNs of all formats; the format of this answer
    put(data, 4, kStandardInquiryBytes - 5);
    put(data, 7, 0x02);  // several commands at once
    put_text(data, 8, 8, options_.vendor);
    put_text(data, 16, 16, options_.product);
    put_text(data, 32, 4, options_.version);
    return reply(command, data, allowed);
  }
  std::optional<Bytes> content;
  if (page == 0x00) {
    content.emplace();
    for (unsigned each = 0; each < 256; ++each)
      if (each == 0x00 || each == 0x83 || (each == 0x80 && !options_.serial.empty()) ||
          product_data(static_cast<uint8_t>(each)))
        content->push_back(static_cast<std::byte>(each));
  } else if (page == 0x80 && !options_.serial.empty()) {
    content.emplace(options_.serial.size());
    put_text(*content, 0, content->size(), options_.serial);
  } else if (page == 0x83) {
    content = identification();
  } else {
    content = product_data(page);
  }
  if (!content) return fail(command, sense::kInvalidField);
  Bytes data(4);
  put(data, 0, static_cast<uint8_t>(kind_));
  put(data, 1, page);
  put(data, 2, content->size(), 2);
  data.insert(data.end(), content->begin(), content->end());
  reply(command, data, allowed);
}

// SPC-4 §7.8.6: the vendor with a name, and the world wide name.
Bytes LogicalUnit::identification() const {
  constexpr size_t kMostName = 64;
  std::string name = !options_.device_id.empty() ? options_.device_id
                     : !options_.serial.empty()  ? options_.serial
                                                 : options_.drive;
  name.resize(std::min(name.size(), kMostName));
  Bytes data(4 + 8 + name.size());
  put(data, 0, 0x02);  // ASCII
  put(data, 1, 0x01);  // of the unit; begins with the vendor
  put(data, 3, 8 + name.size());
  put_text(data, 4, 8, options_.vendor);
  put_text(data, 12, name.size(), name);
  if (options_.wwn == 0) return data;
  const size_t at = data.size();
  data.resize(at + 12);
  put(data, at, 0x01);      // binary
  put(data, at + 1, 0x03);  // NAA
  put(data, at + 3, 8);
  put(data, at + 4, options_.wwn, 8);
  return data;
}

void execute_without_unit(const std::shared_ptr<Command>& command) {
  if (command->byte(0) == kRequestSense)
    return end_with_reply(command, encode(sense::kNoSuchUnit, (command->byte(1) & 1) != 0), command->byte(4));
  if (command->byte(0) != kInquiry) return end_with_sense(command, sense::kNoSuchUnit);
  if ((command->byte(1) & 1) != 0 || command->byte(2) != 0)
    return end_with_sense(command, sense::kInvalidField);
  Bytes data(kStandardInquiryBytes);
  put(data, 0, 0x7f);  // no unit, no device type
  put(data, 2, 0x06);
  put(data, 3, 0x12);
  put(data, 4, kStandardInquiryBytes - 5);
  put_text(data, 8, 28, "");
  end_with_reply(command, data, command->field(3, 2));
}

void report_luns(const std::shared_ptr<Command>& command, std::span<const uint16_t> luns) {
  const uint8_t select = command->byte(2);
  const uint64_t allowed = command->field(6, 4);
  if (select > 2 || allowed < 16) return end_with_sense(command, sense::kInvalidField);
  Bytes data(8);
  if (select != 1)
    for (const uint16_t lun : luns) {
      data.resize(data.size() + 8);
      // SAM-5 §4.7.7: peripheral addressing holds 8 bits, flat addressing 14.
      put(data, data.size() - 8, lun < 256 ? lun : 0x4000u | lun, 2);
    }
  if (select != 0) {
    data.resize(data.size() + 8);
    put(data, data.size() - 8, 0xc101, 2);
  }
  put(data, 0, data.size() - 8, 4);
  end_with_reply(command, data, allowed);
}

}  // namespace ostler::scsi
