// What a disk and a CD drive on an IDE cable have in common (ATA/ATAPI-7 §5-7): the task file, the way of
// data through the data register or by DMA, status and interrupt. Commands are the derived classes'.
//
// Every member is called with the channel's lock held. A drive never calls its disk itself: it leaves a
// request, which the channel issues without the lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/backend.h"
#include "devices/ide/registers.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::ide {

using Bytes = std::vector<std::byte>;

// A request to the host's disk. The memory it uses lives as long as it.
struct HostRequest {
  enum class Kind : uint8_t { kRead, kWrite, kFlush, kDiscard };
  Kind kind = Kind::kFlush;
  uint64_t offset = 0, bytes = 0;
  std::shared_ptr<Bytes> buffer = {};  // of kRead, kWrite: `bytes` from `buffer_at` on, or else `mapping`
  size_t buffer_at = 0;
  memory::Mapping mapping = {};
};

class Drive {
 public:
  static constexpr size_t kBufferBytes = 65536;

  Drive();
  virtual ~Drive() = default;
  Drive(const Drive&) = delete;
  Drive& operator=(const Drive&) = delete;

  // ---- registers ----
  void write_register(Register index, uint8_t value);
  uint8_t read_register(Register index, bool high_order) const;
  uint8_t status() const;
  void command(uint8_t code);
  uint64_t read_data(unsigned size);
  void write_data(unsigned size, uint64_t value);
  bool interrupt() const { return interrupt_; }
  void acknowledge() { interrupt_ = false; }
  void raise() { interrupt_ = true; }
  // The reset bit of the control register, or a reset of the machine. It takes effect when no request is with
  // the host any more.
  void reset(bool hardware);
  void diagnose();  // EXECUTE DEVICE DIAGNOSTIC reaches both drives

  // ---- DMA ----
  bool wants_dma() const { return phase_ == Phase::kDma && !with_host_ && !kept_; }
  bool in_dma() const { return phase_ == Phase::kDma; }
  bool dma_to_guest() const { return dma_to_guest_; }
  // True: between the guest's memory and the disk itself; false: through dma_buffer().
  bool dma_on_disk() const { return dma_on_disk_; }
  uint64_t dma_left() const { return dma_on_disk_ ? dma_left_ : end_ - at_; }
  std::span<std::byte> dma_buffer() { return std::span(*buffer_).subspan(at_, end_ - at_); }
  void dma_advance(uint64_t bytes);        // through the buffer
  void dma_disk(memory::Mapping mapping);  // the next mapping.bytes of the disk

  // ---- the host's disk ----
  virtual std::shared_ptr<block::Backend> node() const = 0;
  std::optional<HostRequest> take_request();
  void request_done(int error);  // a positive errno
  bool with_host() const { return with_host_; }
  // Instead of request_done(): the request will be made again, and the drive is busy until then. False:
  // nobody waits for it any more.
  bool keep_request();
  void repeat_kept();

  void state(state::Archive& archive);

 protected:
  enum class Phase : uint8_t { kIdle, kDataIn, kDataOut, kDma, kHost };
  static constexpr uint8_t kPhases = 5;

  // A register that is written twice keeps the value before, for 48-bit commands (§6.1).
  struct Pair {
    uint8_t now = 0, before = 0;
  };
  struct TaskFile {
    Pair features, count, low, mid, high;
    uint8_t device = 0;
  };

  virtual void execute(uint8_t code) = 0;
  virtual bool has_device_reset() const { return false; }  // DEVICE RESET is carried out, at any time
  virtual void data_read() = 0;                            // the guest has taken what begin_data_in() offered
  virtual void data_written() = 0;                         // it has given what begin_data_out() asked for
  virtual void dma_done() = 0;
  virtual void dma_failed(int error) = 0;
  virtual void host_done(int error) = 0;
  virtual void repeat_host() = 0;       // begin_host() again, as the last one was
  virtual bool may_repeat() const = 0;  // for saved states: there is such a request
  virtual void set_signature() = 0;
  virtual void reset_drive(bool hardware) = 0;
  virtual void drive_state(state::Archive& archive) = 0;
  // For saved states: what DMA may reach, and how much of the buffer is in use, kBufferBytes at most.
  virtual uint64_t disk_bytes() const = 0;
  virtual size_t kept_bytes() const { return 0; }

  Bytes& buffer() { return *buffer_; }
  const Bytes& buffer() const { return *buffer_; }
  // [from, to) of the buffer.
  void begin_data_in(size_t from, size_t to, bool interrupt);
  void begin_data_out(size_t bytes, bool interrupt);
  void begin_dma_buffer(bool to_guest, size_t bytes);
  void begin_dma_disk(bool to_guest, uint64_t offset, uint64_t bytes);
  void begin_host(HostRequest request);
  HostRequest buffer_request(HostRequest::Kind kind, uint64_t offset, uint64_t bytes) const;
  uint64_t dma_offset() const { return dma_offset_; }
  size_t data_end() const { return end_; }
  // The command that moves data ends with dma_failed(): at once, or when the host's request is done.
  void fail_data();
  void finish(uint8_t extra_status = 0, uint8_t error_bits = 0);
  void abort() { finish(status::kError, error::kAborted); }

  TaskFile task_;
  uint8_t error_ = 0;
  uint8_t idle_status_ = 0;  // in Phase::kIdle

 private:
  void reset_now();

  std::shared_ptr<Bytes> buffer_;
  Phase phase_ = Phase::kIdle;
  size_t at_ = 0, end_ = 0;
  bool dma_to_guest_ = false, dma_on_disk_ = false;
  uint64_t dma_offset_ = 0, dma_left_ = 0;
  bool interrupt_ = false;
  std::optional<HostRequest> request_;  // not taken yet
  bool with_host_ = false;              // left or taken, and not done
  uint64_t chunk_ = 0;                  // bytes of DMA that are with the host
  bool lost_ = false;                   // fail_data() waits for the host
  bool kept_ = false;                   // a request failed and will be made again
  bool reset_pending_ = false, reset_hardware_ = false;
};

}  // namespace ostler::ide
