// bench: times requests of one size to an image, a number of them in flight.
#include <algorithm>
#include <cstring>

#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kForceShare,
                                   kFormat,
                                   kQuiet,
                                   kCache,
                                   {"c", 'c', "", true},
                                   {"d", 'd', "", true},
                                   {"s", 's', "", true},
                                   {"S", 'S', "", true},
                                   {"o", 'o', "", true},
                                   {"i", 'i', "", true},
                                   {"n", 'n'},
                                   {"w", 'w'},
                                   {"flush-interval", 0, "flush-interval", true},
                                   {"no-drain", 0, "no-drain"},
                                   {"pattern", 0, "pattern", true}};
constexpr uint64_t kMost = 0x7fffffff, kMostMemory = 1 << 30;
constexpr double kNanoseconds = 1e9;

struct Plan {
  uint64_t count = 75000, depth = 64, size = 4096, step = 0, offset = 0, flush_interval = 0, pattern = 0;
  bool write = false, drain = true;
};

Result<Plan> plan_of(const Arguments& given) {
  Plan plan;
  plan.write = given.has("w");
  plan.drain = !given.has("no-drain");
  TRY_ASSIGN(plan.count, number_of_option("-c", given.value("c", "75000"), 0, kMost));
  TRY_ASSIGN(plan.depth, number_of_option("-d", given.value("d", "64"), 1, 4096));
  TRY_ASSIGN(plan.size, size_of_option("-s", given.value("s", "4096")));
  TRY_ASSIGN(plan.step, size_of_option("-S", given.value("S", "0")));
  TRY_ASSIGN(plan.offset, size_of_option("-o", given.value("o", "0")));
  TRY_ASSIGN(plan.pattern, number_of_option("--pattern", given.value("pattern", "0"), 0, 255));
  TRY_ASSIGN(plan.flush_interval,
             number_of_option("--flush-interval", given.value("flush-interval", "0"), 0, kMost));
  if (plan.size == 0 || plan.size > kMost || plan.size * plan.depth > kMostMemory)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-s, -d: {} requests of {} bytes need more than 1 GiB of memory, or none; make "
                             "them smaller or fewer",
                             plan.depth, plan.size));
  if (plan.step == 0) plan.step = plan.size;
  if (plan.flush_interval != 0 && !plan.write)
    return Error(ErrorKind::kInvalidArgument, "--flush-interval is for writing; give -w too");
  if (plan.flush_interval != 0 && plan.flush_interval < plan.depth)
    return Error(ErrorKind::kInvalidArgument, "--flush-interval: it may not be below the depth (-d)");
  return plan;
}

class Bench {
 public:
  Bench(block::Client& client, const Plan& plan)
      : client_(client), plan_(plan), memory_(plan.size * plan.depth), offset_(plan.offset) {
    std::memset(memory_.data(), static_cast<int>(plan.pattern), memory_.size());
  }

  block::Task<int> run() {
    block::TaskGroup group(static_cast<unsigned>(plan_.depth) + 1);
    while (begun_ < plan_.count) {
      // One round: up to the next flush, or all of it.
      uint64_t round = plan_.count - begun_;
      if (plan_.flush_interval != 0) round = std::min(round, plan_.flush_interval);
      round_left_ = round;
      const uint64_t workers = std::min(round, plan_.depth);
      block::TaskGroup requests(static_cast<unsigned>(plan_.depth));
      for (uint64_t i = 0; i < workers; ++i) static_cast<void>(co_await requests.start(work(i)));
      int error = co_await requests.wait();
      if (error != 0) co_return error;
      if (plan_.flush_interval == 0) break;
      // Without a drain the flush runs beside the next round's requests.
      if (plan_.drain)
        error = co_await client_.flush();
      else
        error = co_await group.start(client_.flush());
      if (error != 0) co_return error;
    }
    co_return co_await group.wait();
  }

 private:
  block::Task<int> work(uint64_t slot) {
    const iovec piece = {memory_.data() + slot * plan_.size, plan_.size};
    while (round_left_ != 0) {
      --round_left_;
      ++begun_;
      const uint64_t room = client_.size() - plan_.size;
      const uint64_t at = room == 0 ? 0 : offset_ % room;
      offset_ = at + plan_.step;
      int error = 0;
      if (plan_.write)
        error = co_await client_.write(at, block::Buffers(&piece, 1));
      else
        error = co_await client_.read(at, block::Buffers(&piece, 1));
      if (error != 0) co_return error;
    }
    co_return 0;
  }

  block::Client& client_;
  const Plan plan_;
  block::AlignedBuffer memory_;
  uint64_t offset_, begun_ = 0, round_left_ = 0;
};

}  // namespace

Result<int> bench(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const Plan plan, plan_of(given));
  TRY_ASSIGN(const std::string name, one_operand(given, "the name of an image"));
  TRY_ASSIGN(auto request, image_request(given, name, plan.write));
  const std::string aio = given.value("i", given.has("n") ? "native" : "threads");
  if (aio != "threads" && aio != "native" && aio != "io_uring")
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("-i: '{}' is not a way of input and output; there are threads, native, io_uring", aio));
  if (aio == "native" && !request.flags.direct)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: native input and output needs -t none or -t directsync; io_uring does not",
                             given.has("i") ? "-i" : "-n"));
  if (given.has("i") && aio == "threads") request.flags.aio = block::Aio::kThreads;
  TRY_ASSIGN(Image image, Image::open(tool, request));
  if (image.size() < plan.size)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: it has {} bytes, less than a request of {}",
                                                          name, image.size(), plan.size));
  tool.say(fmt::format(
      "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n",
      plan.count, plan.write ? "write" : "read", plan.size, plan.depth, plan.offset, plan.step));
  if (plan.flush_interval != 0)
    tool.say(fmt::format("Sending flush every {} requests\n", plan.flush_interval));
  std::fflush(stdout);
  Bench run(image.client(), plan);
  const uint64_t begin = block::IoContext::now();
  const int error = tool.run(run.run());
  if (error != 0) return errno_error(name + ": a request failed", -error);
  const double seconds = static_cast<double>(block::IoContext::now() - begin) / kNanoseconds;
  TRY(image.close());
  tool.say(fmt::format("Run completed in {:.3f} seconds.\n", seconds));
  return 0;
}

}  // namespace ostler::img
