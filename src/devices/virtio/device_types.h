// Every virtio device that -device knows.
#pragma once

#include <span>

#include "config/property.h"

namespace ostler::virtio {

std::span<const config::DeviceType> device_types();

}  // namespace ostler::virtio
