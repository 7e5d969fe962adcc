// What the driver "qcow2" is made of.
#pragma once

#include "block/driver.h"

namespace ostler::block::qcow2 {

Task<Result<NodePtr>> open_qcow2(OpenRequest request);
Task<Result<void>> create_qcow2(CreateRequest request);
Task<Result<nlohmann::json>> measure_qcow2(nlohmann::json options, NodePtr source);

}  // namespace ostler::block::qcow2
