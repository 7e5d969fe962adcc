// Save and restore of device state. A device describes its fields once, in one member function
//
//   void Pit::state(state::Archive& a) {
//     a.section("pit", 1);              // name, current version
//     a.field("gate", gate_);
//     for (auto& channel : channels_) a.field("count", channel.count);
//     if (a.version() >= 2) a.field("new_field", new_field_);   // absent in version-1 streams
//     a.check(index_ < 8, "index");                              // on load: the stream is hostile
//   }
//
// and that function serves both directions: a Saver writes, a Loader reads and never trusts. After a failed
// load the fields hold unspecified but valid-typed values; the caller discards the object.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace ostler::state {

class Archive {
 public:
  virtual ~Archive() = default;

  bool loading() const { return loading_; }
  // Begins a section. On load its name must match and its version be at most `version`; version() is then the
  // stream's.
  void section(std::string_view name, uint32_t version);
  uint32_t version() const { return version_; }

  template <class T>
  requires(std::is_integral_v<T> || std::is_enum_v<T>) void field(std::string_view name, T& value) {
    uint64_t raw = static_cast<uint64_t>(value);
    number(name, raw, sizeof(T));
    if (!loading_) return;
    if constexpr (std::is_same_v<T, bool>)
      value = raw != 0;
    else
      value = static_cast<T>(raw);
  }
  template <class T, size_t N>
  void field(std::string_view name, std::array<T, N>& values) {
    for (T& value : values) field(name, value);
  }
  template <class T, size_t N>
  void field(std::string_view name, T (&values)[N]) {
    if constexpr (sizeof(T) == 1 && !std::is_same_v<T, bool>) {
      bytes(name, std::as_writable_bytes(std::span(values)));
    } else {
      for (T& value : values) field(name, value);
    }
  }
  // Length first; on load a length over `most` fails.
  template <class T>
  void field(std::string_view name, std::vector<T>& values, size_t most) {
    uint64_t count = values.size();
    number(name, count, 4);
    if (loading_) {
      check(count <= most, name);
      values.resize(failed() ? 0 : static_cast<size_t>(count));
    }
    for (T& value : values) field(name, value);
  }
  // Exactly value.size() bytes.
  void bytes(std::string_view name, std::span<std::byte> value);
  void field(std::string_view name, std::string& value, size_t most);

  // On load: a value that breaks the device's invariants fails the load. On save: nothing.
  void check(bool holds, std::string_view what);
  bool failed() const { return !error_.empty(); }
  const std::string& error() const { return error_; }

 protected:
  explicit Archive(bool loading) : loading_(loading) {}
  void fail(std::string_view what);

 private:
  virtual void begin(std::string_view name, uint32_t& version) = 0;
  virtual void number(std::string_view name, uint64_t& value, unsigned size) = 0;
  virtual void raw(std::string_view name, std::span<std::byte> value) = 0;

  const bool loading_;
  uint32_t version_ = 0;
  std::string section_;
  std::string error_;
};

// Writes into a byte vector. Fields carry their size and a hash of their name, so that a mismatch is found at
// the field where it happens.
class Saver final : public Archive {
 public:
  Saver() : Archive(false) {}
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  void begin(std::string_view name, uint32_t& version) override;
  void number(std::string_view name, uint64_t& value, unsigned size) override;
  void raw(std::string_view name, std::span<std::byte> value) override;
  void put(const void* data, size_t size);
  std::vector<std::byte> out_;
};

class Loader final : public Archive {
 public:
  explicit Loader(std::span<const std::byte> in) : Archive(true), in_(in) {}
  // Error when a field failed or bytes are left over.
  Result<void> finish();

 private:
  void begin(std::string_view name, uint32_t& version) override;
  void number(std::string_view name, uint64_t& value, unsigned size) override;
  void raw(std::string_view name, std::span<std::byte> value) override;
  bool get(void* data, size_t size);
  bool expect(std::string_view name, uint8_t tag);
  std::span<const std::byte> in_;
};

// What can be saved. The machine calls it with every vCPU paused and every device quiescent.
class Savable {
 public:
  virtual ~Savable() = default;
  virtual void state(Archive& archive) = 0;
};

}  // namespace ostler::state
