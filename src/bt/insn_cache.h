// Instructions that were decoded and looked at before, by the bytes that decide everything about them but
// displacement and immediate: code repeats itself so much that nearly all are found here.
//
// One for each thread that reads guest code. It holds pure functions of bytes and mode, so nothing that
// happens to guest memory makes an entry wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bt/form.h"
#include "bt/insn_facts.h"
#include "bt/mode.h"
#include "bt/options.h"
#include "x86/cpu_model.h"
#include "x86/instruction.h"

namespace ostler::bt {

class InsnCache {
 public:
  class alignas(64) Entry {
   public:
    unsigned length() const { return length_; }
    const InsnFacts& facts() const { return facts_; }
    const Form& form() const { return form_; }
    // facts() tells the flags of another immediate: set_flag_facts() tells those of this one.
    bool flags_by_immediate() const { return flags_by_immediate_; }
    // The instruction at `bytes`, of which this entry was found.
    void instruction(const uint8_t* bytes, x86::Instruction& out) const {
      std::memcpy(static_cast<void*>(&out), head_.data(), kHead);
      const uint8_t* at = bytes + fixed_;
      const auto disp = load<int32_t>(at);
      out.disp = disp_bytes_ == 4 ? disp : disp_bytes_ == 1 ? static_cast<int8_t>(disp) : 0;
      const auto raw = load<uint64_t>(at + disp_bytes_) << imm_unused_;
      const uint64_t imm =
          imm_signed_ ? static_cast<uint64_t>(static_cast<int64_t>(raw) >> imm_unused_) : raw >> imm_unused_;
      out.imm = has_imm_ ? imm : imm_value_;
    }

   private:
    friend class InsnCache;
    static constexpr size_t kHead = offsetof(x86::Instruction, disp);
    template <class T>
    static T load(const uint8_t* at) {
      T value;
      std::memcpy(&value, at, sizeof value);
      return value;
    }

    uint64_t key_ = 0;
    std::array<uint8_t, kHead> head_;  // of the Instruction
    InsnFacts facts_;
    Form form_;
    uint8_t length_ : 4 = 0;
    uint8_t fixed_ : 4 = 0;       // bytes before displacement and immediate
    uint8_t disp_bytes_ : 4 = 0;  // 0, 1 or 4
    bool has_imm_ : 1 = false;
    bool imm_signed_ : 1 = false;
    bool flags_by_immediate_ : 1 = false;
    uint8_t imm_unused_ = 0;  // bits of 64
    uint8_t imm_value_ = 0;   // when the code has none
  };
  static_assert(sizeof(Entry) == 64);

  // As many bytes are read at `bytes`, whatever they are.
  static constexpr size_t kReads = 24;

  InsnCache();

  // Forgets everything when these are not those of the last call.
  void use(const x86::CpuModel& model, const Options& options);
  // The instruction that begins at `bytes`, of which there are `available`; null when it is not known.
  const Entry* find(const uint8_t* bytes, size_t available, Mode mode) const {
    return find(key_of(bytes, mode).key, available);
  }
  const Entry* find(uint64_t key, size_t available) const {
    const Entry* entry = &entries_[set_of(key)][0];
    if (entry->key_ != key) ++entry;
    return entry->key_ == key && entry->length_ <= available ? entry : nullptr;
  }

  // An instruction to come: where it begins, and its entry's key.
  struct Ahead {
    unsigned at;
    uint64_t key;
  };
  static constexpr unsigned kAhead = 6;
  // Asks the host for the entries of the instructions from code + `at` on, of which `read` bytes are there
  // (from `code` on), and returns how many there are: a guest that runs in between pushes them out of the
  // nearer caches, and one by one they are waited for. Where they begin is a guess, which is right nearly
  // always: what it says of an instruction counts only when one begins there.
  unsigned look_ahead(const uint8_t* code, unsigned at, unsigned read, Mode mode,
                      std::array<Ahead, kAhead>& out) const {
    unsigned count = 0;
    while (count < kAhead && at + sizeof(uint64_t) <= read) {
      const Key key = key_of(code + at, mode);
      if (key.key == kNoKey) break;
      const Entry* pair = &entries_[set_of(key.key)][0];
      __builtin_prefetch(pair);
      __builtin_prefetch(pair + 1);
      out[count++] = {at, key.key};
      if ((key.opcode & kGoesElsewhere) != 0) break;
      at += key.bytes + constants_of(key, code[at + key.bytes - 1]);
    }
    return count;
  }

  // Keeps it, if its form is one of those that are kept.
  void add(const uint8_t* bytes, Mode mode, const x86::Instruction& insn, const InsnFacts& facts,
           const Form& form);

 private:
  static constexpr unsigned kBits = 11;  // of the number of pairs
  static constexpr uint64_t kValid = uint64_t{1} << 55, kNoKey = 1;
  // Of an opcode byte, behind 0F or not. Bits 3 to 5 are an Imm.
  static constexpr uint8_t kHasModrm = 1, kNotKept = 2, kGoesElsewhere = 4, kImmShift = 3;
  enum class Imm : uint8_t { kNothing, kByte, kWord, kOperand, kWhole, kTestByte, kTest };

  struct Key {
    uint64_t key = 0;
    unsigned bytes = 0;  // that it was made of
    uint8_t opcode = 0;  // what opcodes_ says
    uint8_t modrm = 0;   // of an instruction that has one
    bool wide = false, narrow = false;
  };
  // The bytes of displacement and immediate. `last`: the last of those that the key was made of. By tables,
  // as nothing could predict the branches.
  unsigned constants_of(const Key& key, uint8_t last) const {
    const unsigned has_modrm = key.opcode & kHasModrm;
    const unsigned far = (key.modrm & 0xc7) == 4 && (last & 7) == 5 ? 4 : 0;  // no base behind SIB
    const unsigned operands =
        (key.narrow ? kNarrow : 0u) | (key.wide ? kWide : 0u) | ((key.modrm & 0x30) == 0 ? kFirst : 0u);
    return has_modrm * (displacements_[key.modrm] + far) + immediates_[key.opcode >> kImmShift][operands];
  }
  // One prefix, REX, 0F, opcode, ModRM and SIB. Taken without branches, which nothing could predict.
  Key key_of(const uint8_t* bytes, Mode mode) const {
    const auto code = Entry::load<uint64_t>(bytes);
    uint64_t rest = code;
    unsigned count = 0;
    const auto skip = [&](unsigned n) {
      rest >>= 8 * n;
      count += n;
    };
    const bool narrow = (rest & 0xff) == 0x66;
    skip(is_prefix_[rest & 0xff]);
    const unsigned rex = ((rest & 0xf0) == 0x40) & ((mode & mode::k32) == 0);
    const bool wide = (rex & rest >> 3) != 0;
    skip(rex);
    const unsigned twice = rex & ((rest & 0xf0) == 0x40);  // then the first does not count
    const unsigned escape = (rest & 0xff) == 0x0f ? 1 : 0;
    skip(escape);
    const uint8_t opcode = opcodes_[escape][rest & 0xff];
    skip(1);
    const auto modrm = static_cast<unsigned>(rest & 0xff);
    const unsigned has_modrm = opcode & kHasModrm;
    count += has_modrm + (has_modrm & (modrm < 0xc0) & ((modrm & 7) == 4));
    const uint64_t context = kValid | uint64_t{static_cast<Mode>(mode & ~mode::kNoWindow)} << 56;
    return {((opcode & kNotKept) | twice) != 0 ? kNoKey : (code & ~uint64_t{} >> (64 - 8 * count)) | context,
            count,
            opcode,
            static_cast<uint8_t>(modrm),
            wide,
            narrow};
  }
  static size_t set_of(uint64_t key) { return key * 0x9e3779b97f4a7c15 >> (64 - kBits); }

  std::array<std::array<uint8_t, 256>, 2> opcodes_{};
  std::array<uint8_t, 256> is_prefix_{};
  static constexpr unsigned kNarrow = 1, kWide = 2, kFirst = 4;
  std::array<std::array<uint8_t, 8>, 8> immediates_{};  // bytes, by Imm and those
  std::array<uint8_t, 256> displacements_{};            // by ModRM
  const x86::CpuModel* model_ = nullptr;
  bool system_ = false, check_ = false, tsc_ = false;
  std::array<std::array<Entry, 2>, size_t{1} << kBits> entries_;  // the newer one first
};

}  // namespace ostler::bt
