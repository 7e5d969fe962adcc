// Key slots of a LUKS1 header that begins at `at` of a file: opening, making, adding and erasing them.
// Slow parts run on worker threads.
#pragma once

#include <optional>

#include "block/formats/luks/luks_crypto.h"
#include "block/open.h"
#include "block/options.h"

namespace ostler::block {

// What a new volume is made of: the options cipher-alg, cipher-mode, ivgen-alg, ivgen-hash-alg, hash-alg,
// iter-time, key-secret. Other options stay in the reader.
struct LuksPlan {
  LuksHeader header;
  uint64_t milliseconds = 2000;  // that trying a passphrase is to take
  std::string secret;            // its name; empty: none given
};
Result<LuksPlan> read_luks_plan(OptionReader& options);

// The volume's key, by the first slot that the passphrase opens; kPermission if none does.
Task<Result<SecretBytes>> unlock_luks(Node& file, uint64_t at, LuksHeader header, SecretBytes passphrase);
// Fills in a new volume's key slot, salts and digest, and writes header and key material.
struct NewLuks {
  LuksHeader header;
  SecretBytes key;
};
Task<Result<NewLuks>> format_luks(Node& file, uint64_t at, LuksPlan plan, SecretBytes passphrase);

// A change of key slots, by the options state, keyslot, old-secret, new-secret, iter-time of `qemu-img
// amend`.
struct LuksChange {
  bool activate = false;
  std::optional<unsigned> slot;
  std::optional<SecretBytes> old_passphrase, new_passphrase;
  uint64_t milliseconds = 2000;
  bool force = false;  // also the last slot may be erased
};
// Checks what can be checked without the volume; all options are taken.
Result<LuksChange> read_luks_change(OptionReader& options, const Opener& opener, bool force);
// The header as it is afterwards. `key` is the volume's. A slot's material is stable before the header names
// it, and is overwritten when the header does no more.
Task<Result<LuksHeader>> change_luks(Node& file, uint64_t at, LuksHeader header, const SecretBytes& key,
                                     const LuksChange& change);

// Parts of these: the key in a slot and whether it is the volume's; a slot's material (on a worker thread).
Task<Result<bool>> open_luks_slot(Node& file, uint64_t at, const LuksHeader& header, const LuksSlot& slot,
                                  const SecretBytes& passphrase, SecretBytes& key);
Result<SecretBytes> fill_luks_slot(const LuksHeader& header, LuksSlot& slot, const SecretBytes& key,
                                   const SecretBytes& passphrase, uint64_t milliseconds);

}  // namespace ostler::block
