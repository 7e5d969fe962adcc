// Chains of images, guests that write to them from threads of their own, and jobs beside them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <thread>

#include "block/client.h"
#include "block/filters/fault_node.h"
#include "block/jobs/job_manager.h"
#include "qcow2_fixture.h"

namespace ostler::block::test {

inline constexpr Permissions kGuest = {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionRead};

// Several threads, each with a context of its own, write at random to their parts of a disk, read what they
// have written, and know what must be there. The disk is theirs from `begin` on, which has `content`.
class Guest {
 public:
  Guest(std::shared_ptr<Client> disk, std::string content, unsigned seed, unsigned threads = 2,
        uint64_t begin = 0)
      : disk_(std::move(disk)), begin_(begin), model_(std::move(content)) {
    const size_t part = model_.size() / 512 / threads * 512;
    for (unsigned i = 0; i < threads; ++i)
      threads_.emplace_back([this, i, part, seed] { work(i * part, part, seed * 7 + i); });
  }
  ~Guest() { stop(); }
  // Lets it do `requests` more.
  void wait_for(unsigned requests) const {
    const unsigned until = done_ + requests;
    while (done_ < until) std::this_thread::yield();
  }
  // What the disk must hold.
  const std::string& stop() {
    stop_ = true;
    for (std::thread& each : threads_) each.join();
    threads_.clear();
    disk_ = nullptr;
    return model_;
  }

 private:
  static Task<int> write(Client& disk, uint64_t offset, const std::string& bytes) {
    const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
    co_return co_await disk.write(offset, Buffers(&piece, 1));
  }
  static Task<int> read(Client& disk, uint64_t offset, std::string& bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    co_return co_await disk.read(offset, Buffers(&piece, 1));
  }
  // Not replace(): it writes the string's length too, which all threads share.
  void remember(uint64_t offset, const std::string& data) {
    memcpy(model_.data() + offset, data.data(), data.size());
  }
  void work(uint64_t begin, uint64_t part, unsigned seed) {
    IoContext context(seed % 2 == 0 ? Aio::kIoUring : Aio::kThreads);
    std::mt19937 random(seed);
    while (!stop_) {
      const uint64_t sectors = part / 512, first = random() % sectors;
      const uint64_t longest = random() % 8 == 0 ? 400 : 20;
      const uint64_t bytes = std::min<uint64_t>(1 + random() % longest, sectors - first) * 512;
      const uint64_t offset = begin + first * 512;
      std::string data(bytes, static_cast<char>(1 + random() % 255));
      int error = 0;
      switch (random() % 8) {
        case 0:
          error = context.run_until(
              disk_->write_zeroes(begin_ + offset, bytes, {.may_unmap = random() % 2 == 0}));
          remember(offset, std::string(bytes, '\0'));
          break;
        case 1:
          error = context.run_until(disk_->discard(begin_ + offset, bytes));
          if (error == 0) error = context.run_until(read(*disk_, begin_ + offset, data));
          for (uint64_t i = 0; i < bytes; i += 512) {
            const bool kept = data.compare(i, 512, model_, offset + i, 512) == 0;
            EXPECT_TRUE(kept || data.compare(i, 512, std::string(512, '\0')) == 0);
          }
          remember(offset, data);
          break;
        case 2:
          error = context.run_until(disk_->flush());
          break;
        case 3:
          error = context.run_until(read(*disk_, begin_ + offset, data));
          EXPECT_TRUE(same(data, model_.substr(offset, bytes))) << "at " << offset;
          break;
        default:
          for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(data[i] + i / 512);
          error = context.run_until(write(*disk_, begin_ + offset, data));
          remember(offset, data);
      }
      EXPECT_EQ(error, 0);
      ++done_;
    }
  }
  std::shared_ptr<Client> disk_;
  const uint64_t begin_;
  std::string model_;  // each thread changes its part
  std::atomic<bool> stop_{false};
  std::atomic<unsigned> done_{0};
  std::vector<std::thread> threads_;
};

class JobTest : public Qcow2Test {
 protected:
  JobTest() : manager(jobs.context(), opener, [this](const JobEvent& event) { note(event); }) {}
  void TearDown() override {
    if (guest_disk) guest_disk = nullptr;
    run(manager.shut_down());
  }
  template <class T>
  T run(Task<T> task) {
    return context.run_until(std::move(task));
  }
  void run(Task<void> task) { context.run_until(std::move(task)); }

  // Images name0 <- name1 <- …, each with random content of its own; the content of the last one.
  std::string make_chain(const std::string& name, unsigned length, uint64_t size, unsigned seed,
                         nlohmann::json more = nlohmann::json::object()) {
    Workload workload(seed, size);
    for (unsigned i = 0; i < length; ++i) {
      nlohmann::json options = more;
      options["size"] = size;
      if (i != 0) {
        options["backing_file"] = path(name + std::to_string(i - 1));
        options["backing_fmt"] = "qcow2";
      }
      create(name + std::to_string(i), options);
      NodePtr image = open(path(name + std::to_string(i)), "qcow2");
      for (int k = 0; k < 40; ++k) {
        const Workload::Request request = workload.next();
        if (request.kind == Workload::Request::kWrite) {
          EXPECT_EQ(write(*image, request.offset, request.data), 0);
          workload.model.replace(request.offset, request.bytes, request.data);
        } else {
          EXPECT_EQ(zero(*image, request.offset, request.bytes, request.may_unmap), 0);
          workload.model.replace(request.offset, request.bytes, request.bytes, '\0');
        }
      }
      close(image);
    }
    return workload.model;
  }
  // Opens an image and puts a guest's disk on it.
  NodePtr attach_guest(const std::string& name) {
    NodePtr node = open(path(name), "qcow2");
    attach_guest(node);
    return node;
  }
  void attach_guest(const NodePtr& node) {
    auto client = Client::attach(node, "guest", kGuest);
    EXPECT_TRUE(client) << (client ? "" : client.error().message());
    if (client) guest_disk = *client;
  }
  std::string read_guest_disk() {
    std::string bytes(guest_disk->size(), '?');
    const iovec piece{bytes.data(), bytes.size()};
    EXPECT_EQ(context.run_until(guest_disk->read(0, Buffers(&piece, 1))), 0);
    return bytes;
  }
  // The guest is gone; its disk is closed.
  void close_guest_disk() {
    NodePtr node = guest_disk->node();
    guest_disk = nullptr;
    close(node);
  }
  std::shared_ptr<Job> expect_job(Result<std::shared_ptr<Job>> job) {
    EXPECT_TRUE(job) << (job ? "" : job.error().message());
    return job ? *std::move(job) : nullptr;
  }
  // Waits until it has come to its end: the message of its error.
  std::string end_of(const std::shared_ptr<Job>& job) {
    run(job->concluded());
    return job->info().error;
  }
  void wait_for_status(const std::shared_ptr<Job>& job, JobStatus status) {
    std::unique_lock lock(events_mutex);
    events_changed.wait(lock, [&] { return job->info().status == status; });
  }
  unsigned events_of(JobEvent::Kind kind) {
    const std::lock_guard lock(events_mutex);
    unsigned count = 0;
    for (const JobEvent& each : events) count += each.kind == kind ? 1 : 0;
    return count;
  }
  std::string backing_of(const std::string& name) {
    OpenFlags flags;
    flags.no_backing = true;
    NodePtr node = open(path(name), "qcow2", flags);
    std::string file = node->backing_file_name();
    close(node);
    return file;
  }

  IoThread jobs;
  JobManager manager;
  std::shared_ptr<Client> guest_disk;
  std::mutex events_mutex;
  std::condition_variable events_changed;
  std::vector<JobEvent> events;

 private:
  void note(const JobEvent& event) {
    const std::lock_guard lock(events_mutex);
    events.push_back(event);
    events_changed.notify_all();
  }
};

}  // namespace ostler::block::test
