// Shared folders for which the user did not choose a device (`ostler run --share`).
#pragma once

#include "config/machine.h"

namespace ostler::machine {

// `config` with a device for each of its shares: virtio-fs, for which virtiofsd will be started and the
// guest's memory be shared, or virtio-9p where no virtiofsd can serve the folder.
config::Machine with_shares_placed(config::Machine config);

}  // namespace ostler::machine
