#include "machine/control_commands.h"

#include "devices/virtio/balloon/device.h"
#include "machine/media.h"

namespace ostler::test {
namespace {

using nlohmann::json;

std::string text(const json& arguments, const char* name) {
  return arguments.value(name, std::string());
}

Result<json> answer(Result<void> done) {
  if (!done) return std::move(done).error();
  return json::object();
}

std::string_view state_name(machine::RunState state) {
  if (state == machine::RunState::kRunning) return "running";
  return state == machine::RunState::kIoError ? "io-error" : "paused";
}

void add_media(std::map<std::string, Command>& commands, machine::Media& media) {
  commands["open_tray"] = [&](const json& a) {
    return answer(media.open_tray(text(a, "id"), a.value("force", false)));
  };
  commands["close_tray"] = [&](const json& a) { return answer(media.close_tray(text(a, "id"))); };
  commands["insert"] = [&](const json& a) { return answer(media.insert(text(a, "id"), text(a, "node"))); };
  commands["remove"] = [&](const json& a) { return answer(media.remove(text(a, "id"))); };
  commands["eject"] = [&](const json& a) {
    return answer(media.eject(text(a, "id"), a.value("force", false)));
  };
  commands["change"] = [&](const json& a) {
    return answer(media.change(text(a, "id"), text(a, "file"), text(a, "format"), a.value("force", false)));
  };
  commands["media"] = [&](const json&) -> Result<json> {
    json list = json::array();
    for (const machine::MediumState& each : media.list())
      list.push_back({{"device", each.device},
                      {"open", each.open},
                      {"locked", each.locked},
                      {"inserted", each.inserted},
                      {"file", each.file}});
    return list;
  };
}

}  // namespace

std::map<std::string, Command> commands_of(machine::Machine& machine) {
  std::map<std::string, Command> commands;
  commands["pause"] = [&](const json&) -> Result<json> {
    machine.pause();
    return json::object();
  };
  commands["resume"] = [&](const json&) -> Result<json> {
    machine.resume();
    return json::object();
  };
  commands["state"] = [&](const json&) -> Result<json> { return json(state_name(machine.run_state())); };
  // Saves, resets and restores the whole guest.
  commands["reload"] = [&](const json&) -> Result<json> {
    machine.pause();
    const machine::Snapshot snapshot = machine.save();
    TRY(machine.reset());
    TRY(machine.restore(snapshot));
    return json::object();
  };
  commands["balloon"] = [&](const json& a) -> Result<json> {
    auto* const balloon = machine.balloon();
    if (balloon == nullptr) return Error(ErrorKind::kNotFound, "there is no balloon");
    if (a.contains("target")) balloon->set_target(a["target"].get<uint64_t>());
    if (a.value("reclaim", false) && !balloon->reclaim_free_pages())
      return Error(ErrorKind::kUnsupported, "the guest's driver gives no hints");
    json told = json::object();
    const auto statistics = balloon->statistics();
    for (size_t tag = 0; tag < statistics.values.size(); ++tag)
      if (statistics.values[tag]) told[std::to_string(tag)] = *statistics.values[tag];
    return json{{"actual", balloon->actual()}, {"reclaimed", balloon->reclaimed()}, {"statistics", told}};
  };
  commands["set_link"] = [&](const json& a) {
    return answer(machine.set_link(text(a, "name"), a.value("up", true)));
  };
  commands["add_node"] = [&](const json& a) { return answer(machine.block_add(a.at("options").dump())); };
  commands["remove_node"] = [&](const json& a) { return answer(machine.block_remove(text(a, "node"))); };
  add_media(commands, machine.media());
  return commands;
}

}  // namespace ostler::test
