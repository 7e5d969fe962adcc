// What `info` tells of one image, as a JSON object and as text for people.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "block/capabilities.h"
#include "block/node.h"

namespace ostler::img {

// `filename`: as the user or the image above names it.
nlohmann::ordered_json image_description(const block::Node& node, const std::string& filename);
std::string description_text(const nlohmann::ordered_json& description);

// The table of `snapshot -l`, in local time.
std::string snapshot_table(std::span<const block::SnapshotInfo> snapshots);

}  // namespace ostler::img
