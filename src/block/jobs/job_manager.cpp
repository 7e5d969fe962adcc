#include "block/jobs/job_manager.h"

#include "block/jobs/job_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace ostler::block {

JobManager::JobManager(IoContext& context, Opener& opener, JobEvents events)
    : context_(context), opener_(opener), events_(std::move(events)) {}

JobManager::~JobManager() {
  ASSERT(live_ == 0, "jobs are shut down before their manager goes");
}

std::shared_ptr<Job> JobManager::find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : found->second;
}

Result<std::shared_ptr<Job>> JobManager::need(const std::string& id) const {
  if (auto job = find(id)) return job;
  return Error(ErrorKind::kNotFound, fmt::format("there is no job '{}'", id));
}

std::vector<JobInfo> JobManager::list() const {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, job] : jobs_) jobs.push_back(job);
  }
  std::vector<JobInfo> infos;
  for (const auto& job : jobs) infos.push_back(job->info());
  return infos;
}

Result<void> JobManager::check_id(const std::string& id) const {
  const auto allowed = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '_';
  };
  if (id.empty() || std::isalpha(static_cast<unsigned char>(id[0])) == 0 || !std::ranges::all_of(id, allowed))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}' is not a job's id: a letter, then letters, digits, '-', '.' or '_'", id));
  const std::lock_guard lock(mutex_);
  if (jobs_.contains(id))
    return Error(ErrorKind::kInvalidArgument, fmt::format("there is a job '{}' already", id));
  return {};
}

Result<void> JobManager::start(std::shared_ptr<Job> job) {
  TRY(check_id(job->id()));
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return Error(ErrorKind::kState, "the machine ends; it begins no more jobs");
    if (!jobs_.emplace(job->id(), job).second)
      return Error(ErrorKind::kInvalidArgument, fmt::format("there is a job '{}' already", job->id()));
    ++live_;
  }
  if (job->options_.group) job->options_.group->join(job);
  context_.spawn(host(std::move(job)));
  return {};
}

Task<void> JobManager::host(std::shared_ptr<Job> job) {
  co_await job->live();
  job = nullptr;
  const std::lock_guard lock(mutex_);
  --live_;
  ended_.wake_all();
}

void JobManager::forget(const Job& job) {
  std::shared_ptr<Job> last;
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(job.id());
  if (found == jobs_.end() || found->second.get() != &job) return;
  last = std::move(found->second);
  jobs_.erase(found);
}

Task<void> JobManager::shut_down() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    for (const auto& [id, job] : jobs_) jobs.push_back(job);
  }
  // Refused by those that have come to their end.
  for (const auto& job : jobs) static_cast<void>(job->cancel(true));
  jobs.clear();
  std::unique_lock lock(mutex_);
  while (live_ != 0) co_await ended_.wait(lock);
  jobs_.clear();
}

bool JobManager::same(const std::weak_ptr<Node>& one, const NodePtr& other) {
  return !one.owner_before(other) && !other.owner_before(one);
}

Result<JobManager::Claim> JobManager::claim(std::string who, const std::vector<NodePtr>& exclusive,
                                            const std::vector<NodePtr>& shared) {
  const auto has = [](const std::vector<std::weak_ptr<Node>>& list, const NodePtr& node) {
    return std::ranges::any_of(list, [&](const std::weak_ptr<Node>& each) { return same(each, node); });
  };
  const std::lock_guard lock(mutex_);
  for (const auto& [key, other] : claims_) {
    const NodePtr* taken = nullptr;
    for (const NodePtr& node : exclusive)
      if (has(other.exclusive, node) || has(other.shared, node)) taken = &node;
    for (const NodePtr& node : shared)
      if (has(other.exclusive, node)) taken = &node;
    if (taken != nullptr)
      return Error(ErrorKind::kBusy,
                   fmt::format("{} is in use by {}; wait for its end", (*taken)->filename(), other.who),
                   EBUSY);
  }
  Claimed& mine = claims_[next_claim_];
  mine.who = std::move(who);
  mine.exclusive.assign(exclusive.begin(), exclusive.end());
  mine.shared.assign(shared.begin(), shared.end());
  return Claim(this, next_claim_++);
}

void JobManager::Claim::release() {
  JobManager* const manager = std::exchange(manager_, nullptr);
  if (manager == nullptr) return;
  const std::lock_guard lock(manager->mutex_);
  manager->claims_.erase(key_);
}

}  // namespace ostler::block
