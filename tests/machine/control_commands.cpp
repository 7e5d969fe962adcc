#include "machine/control_commands.h"

#include "devices/virtio/balloon/device.h"
#include "machine/block_jobs.h"
#include "machine/media.h"
#include "machine/nbd_exports.h"

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

void add_nbd(std::map<std::string, Command>& commands, machine::NbdExports& nbd) {
  commands["nbd_start"] = [&](const json& a) { return answer(nbd.start({.path = text(a, "path")})); };
  commands["nbd_add"] = [&](const json& a) {
    config::NbdExport disk{.id = text(a, "id"), .node = text(a, "node"), .name = text(a, "id")};
    disk.writable = a.value("writable", false);
    disk.bitmaps = a.value("bitmaps", std::vector<std::string>());
    return answer(nbd.add(disk));
  };
  commands["nbd_remove"] = [&](const json& a) { return answer(nbd.remove(text(a, "id"))); };
  commands["nbd_stop"] = [&](const json&) -> Result<json> {
    nbd.stop();
    return json::object();
  };
}

machine::JobTarget target_of(const json& a) {
  return {.node = text(a, "target"),
          .file = text(a, "file"),
          .format = a.value("format", "qcow2"),
          .existing = a.value("existing", false)};
}

block::JobOptions job_of(const json& a) {
  block::JobOptions options;
  options.id = text(a, "job");
  options.speed = a.value("speed", uint64_t{0});
  options.auto_dismiss = a.value("auto_dismiss", false);
  return options;
}

Result<machine::BackupRequest> backup_of(const json& a) {
  machine::BackupRequest request{.job = job_of(a), .disk = text(a, "disk"), .target = target_of(a)};
  TRY_ASSIGN(request.sync, block::parse_sync_mode(a.value("sync", "full")));
  request.bitmap = text(a, "bitmap");
  return request;
}

machine::SnapshotRequest snapshot_of(const json& a) {
  return {.disk = text(a, "disk"),
          .overlay = text(a, "overlay"),
          .file = text(a, "file"),
          .format = a.value("format", "qcow2")};
}

machine::BitmapRequest bitmap_of(const json& a) {
  return {.disk = text(a, "disk"), .name = text(a, "bitmap"), .persistent = a.value("persistent", false)};
}

Result<json> transact(machine::BlockJobs& jobs, const json& a) {
  std::vector<machine::ActionRequest> actions;
  for (const json& each : a.at("actions")) {
    const std::string what = text(each, "do");
    if (what == "snapshot") actions.emplace_back(snapshot_of(each));
    if (what == "add_bitmap") actions.emplace_back(bitmap_of(each));
    if (what == "backup") {
      TRY_ASSIGN(machine::BackupRequest request, backup_of(each));
      actions.emplace_back(std::move(request));
    }
  }
  const bool grouped = a.value("grouped", false);
  return answer(jobs.transaction(
      actions, grouped ? block::CompletionMode::kGrouped : block::CompletionMode::kIndividual));
}

void add_jobs(std::map<std::string, Command>& commands, machine::BlockJobs& jobs) {
  commands["snapshot"] = [&](const json& a) { return answer(jobs.snapshot(snapshot_of(a))); };
  commands["add_bitmap"] = [&](const json& a) { return answer(jobs.add_bitmap(bitmap_of(a))); };
  commands["transaction"] = [&](const json& a) { return transact(jobs, a); };
  commands["stream"] = [&](const json& a) {
    return answer(jobs.stream({.job = job_of(a), .disk = text(a, "disk"), .base = text(a, "base")}));
  };
  commands["commit"] = [&](const json& a) {
    return answer(jobs.commit(
        {.job = job_of(a), .disk = text(a, "disk"), .top = text(a, "top"), .base = text(a, "base")}));
  };
  commands["mirror"] = [&](const json& a) -> Result<json> {
    machine::MirrorRequest request{.job = job_of(a), .disk = text(a, "disk"), .target = target_of(a)};
    TRY_ASSIGN(request.sync, block::parse_sync_mode(a.value("sync", "full")));
    if (a.value("blocking", false)) request.copy_mode = block::MirrorCopyMode::kWriteBlocking;
    request.replaces = text(a, "replaces");
    return answer(jobs.mirror(request));
  };
  commands["backup"] = [&](const json& a) -> Result<json> {
    TRY_ASSIGN(const machine::BackupRequest request, backup_of(a));
    return answer(jobs.backup(request));
  };
  commands["jobs"] = [&](const json&) -> Result<json> {
    json list = json::object();
    for (const block::JobInfo& each : jobs.list())
      list[each.id] = {{"status", block::job_status_name(each.status)}, {"error", each.error}};
    return list;
  };
  using Control = Result<void> (*)(block::Job&);
  const std::pair<const char*, Control> controls[] = {
      {"job_cancel", [](block::Job& job) { return job.cancel(); }},
      {"job_complete", [](block::Job& job) { return job.complete(); }},
      {"job_pause", [](block::Job& job) { return job.pause(); }},
      {"job_resume", [](block::Job& job) { return job.resume(); }},
      {"job_dismiss", [](block::Job& job) { return job.dismiss(); }},
  };
  for (const auto& [name, control] : controls)
    commands[name] = [&jobs, act = control](const json& a) -> Result<json> {
      TRY_ASSIGN(const auto job, jobs.job(text(a, "job")));
      return answer(act(*job));
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
    TRY_ASSIGN(const machine::Snapshot snapshot, machine.save());
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
  commands["resize"] = [&](const json& a) {
    return answer(machine.block_resize(text(a, "id"), a.at("bytes").get<uint64_t>()));
  };
  commands["add_node"] = [&](const json& a) { return answer(machine.block_add(a.at("options").dump())); };
  commands["remove_node"] = [&](const json& a) { return answer(machine.block_remove(text(a, "node"))); };
  add_media(commands, machine.media());
  add_nbd(commands, machine.nbd());
  add_jobs(commands, machine.jobs());
  return commands;
}

}  // namespace ostler::test
