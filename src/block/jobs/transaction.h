// Several changes of disks in use at one moment, all or none: QMP's "transaction".
#pragma once

#include <variant>
#include <vector>

#include "block/jobs/backup.h"
#include "block/jobs/bitmaps.h"
#include "block/jobs/snapshot.h"

namespace ostler::block {

// "block-dirty-bitmap-clear", "-enable", "-disable".
struct BitmapChange {
  enum class Kind { kClear, kEnable, kDisable };
  Kind kind = Kind::kClear;
  NodePtr node;
  std::string name;
};

using TransactionAction = std::variant<BitmapOptions, BitmapChange, BackupOptions, SnapshotPair>;

enum class CompletionMode {
  kIndividual,
  kGrouped,  // jobs that were begun succeed together, or are all cancelled
};

// On an I/O context, while the disks are used. No user's request lies between the actions; bitmaps change
// first, then backups begin, then snapshots are taken. After an error everything is as it was. The jobs that
// were begun.
Task<Result<std::vector<std::shared_ptr<Job>>>> run_transaction(
    JobManager& manager, std::vector<TransactionAction> actions,
    CompletionMode mode = CompletionMode::kIndividual);

}  // namespace ostler::block
