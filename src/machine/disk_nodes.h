// From what the user wrote to nodes of the block graph.
#pragma once

#include "block/open.h"
#include "config/machine.h"

namespace ostler::machine {

// On an I/O context. Errors tell what is wrong without the option that asked for it.
block::Task<Result<block::NodePtr>> open_block_node(block::Opener& opener, config::BlockNode node);
// The drive's image with what lies on top of it: a temporary overlay, copy-on-read, limits. `drive` has a
// medium.
block::Task<Result<block::NodePtr>> open_drive(block::Opener& opener, config::Drive drive);

// The group that the drive's limits belong to: without a name one of its own.
std::string throttle_group_of(const config::Drive& drive);

// What a drive without a medium has: a node of no bytes.
block::NodePtr no_medium();

}  // namespace ostler::machine
