// The jobs of a machine by their id, and which nodes they work on: two of them must not change the same part
// of the graph.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/jobs/job.h"
#include "block/open.h"

namespace ostler::block {

// All members from any thread, coroutines on an I/O context. shut_down() comes before the end.
class JobManager {
 public:
  // Jobs run on `context`; nodes that they make are named by `opener`.
  JobManager(IoContext& context, Opener& opener, JobEvents events = {});
  ~JobManager();
  JobManager(const JobManager&) = delete;
  JobManager& operator=(const JobManager&) = delete;

  std::shared_ptr<Job> find(const std::string& id) const;
  Result<std::shared_ptr<Job>> need(const std::string& id) const;  // kNotFound
  std::vector<JobInfo> list() const;
  // Cancels all jobs and waits until they are gone; no new ones begin.
  Task<void> shut_down();

  // --- for jobs and other changes to the graph ---

  // Nodes that nobody else may work on meanwhile; shared ones may be read by several.
  class [[nodiscard]] Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept : manager_(std::exchange(other.manager_, nullptr)), key_(other.key_) {}
    Claim& operator=(Claim&& other) noexcept {
      release();
      manager_ = std::exchange(other.manager_, nullptr);
      key_ = other.key_;
      return *this;
    }
    ~Claim() { release(); }
    void release();

   private:
    friend class JobManager;
    Claim(JobManager* manager, uint64_t key) : manager_(manager), key_(key) {}
    JobManager* manager_ = nullptr;
    uint64_t key_ = 0;
  };
  // kBusy, naming `who` has one of them.
  Result<Claim> claim(std::string who, const std::vector<NodePtr>& exclusive,
                      const std::vector<NodePtr>& shared = {});
  // One change at a time. No request is held while waiting for it.
  Task<Mutex::Guard> change_graph() { return changing_.lock(); }
  Opener& opener() { return opener_; }
  IoContext& context() { return context_; }
  const JobEvents& events() const { return events_; }

  // Fails when the id is taken or not one: letters, digits, "-", "." and "_", a letter first.
  Result<void> check_id(const std::string& id) const;
  // Registers and begins it.
  Result<void> start(std::shared_ptr<Job> job);
  void forget(const Job& job);

 private:
  struct Claimed {
    std::string who;
    std::vector<std::weak_ptr<Node>> exclusive, shared;
  };
  Task<void> host(std::shared_ptr<Job> job);
  static bool same(const std::weak_ptr<Node>& one, const NodePtr& other);

  IoContext& context_;
  Opener& opener_;
  const JobEvents events_;
  Mutex changing_;
  mutable std::mutex mutex_;  // of the following
  std::map<std::string, std::shared_ptr<Job>> jobs_;
  std::map<uint64_t, Claimed> claims_;
  uint64_t next_claim_ = 1;
  unsigned live_ = 0;
  bool ending_ = false;
  WaitQueue ended_;
};

}  // namespace ostler::block
