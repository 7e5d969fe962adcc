// Passphrases and keys that users name: `-object secret` and `--object secret`.
#pragma once

#include <string>

#include "block/open.h"
#include "block/options.h"

namespace ostler::block {

// The secret that `options` describe, to be kept by the opener as `id`: one of data=TEXT and file=PATH (64
// KiB at most), format=raw or base64; with keyid=ID and iv=BASE64 it is encrypted by AES-256-CBC with the
// secret ID, 32 bytes, as its key. All options are taken.
Result<void> add_secret(Opener& opener, const std::string& id, OptionReader options);

}  // namespace ostler::block
