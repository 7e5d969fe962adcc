// virtio-scsi over disks in memory: addressing, answers, task management, events, life cycle.
#include <gtest/gtest.h>

#include <cerrno>
#include <thread>

#include "devices/scsi/cd.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/scsi/device.h"
#include "fake_driver.h"
#include "rigs/memory_node.h"

namespace ostler::virtio::scsi {
namespace {

using ostler::scsi::Disk;
using rigs::MemoryNode;
using test::FakeQueue;
using test::GuestMemory;
namespace sense = ostler::scsi::sense;

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned queue) override { ++interrupts[queue]; }
  void interrupt_config() override {}
  void needs_reset() override { ++resets_needed; }
  int interrupts[8] = {};
  int resets_needed = 0;
};

using Cdb = std::vector<uint8_t>;

class ScsiTest : public testing::Test {
 protected:
  static constexpr uint64_t kFeatures =
      feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_SCSI_F_HOTPLUG) | feature(VIRTIO_SCSI_F_CHANGE);
  static constexpr uint8_t kTarget = 2;

  void make() {
    device = std::make_unique<ScsiDevice>(memory.space, options);
    device->connect(transport);
    add(kTarget, 0, node);
  }
  bool add(uint8_t target, uint16_t lun, std::shared_ptr<MemoryNode> disk) {
    ostler::scsi::Options own;
    return device->add(target, lun, std::make_shared<Disk>(std::move(disk), own));
  }
  void start(uint64_t features = kFeatures) {
    if (!device) make();
    features_ = features;
    std::vector<QueueSetup> all = setups();
    ASSERT_TRUE(device->activate(features, all));
    if (test_attention) {
      EXPECT_EQ(run({0x00}).sense_code, sense::kReset.code);
    }
  }
  std::vector<QueueSetup> setups() {
    std::vector<QueueSetup> all = {control.setup, events.setup, requests.setup, more.setup};
    all.resize(device->queue_count());
    return all;
  }
  void load(std::span<const std::byte> saved, bool good = true) {
    state::Loader loader(saved);
    device->state(loader, true, features_, setups());
    EXPECT_EQ(static_cast<bool>(loader.finish()), good);
  }
  std::vector<std::byte> save() {
    state::Saver saver;
    device->state(saver, true, features_, setups());
    return saver.take();
  }

  struct Answer {
    bool used = false;
    uint32_t length = 0;
    ResponseHeader header{};
    Response response = Response::kOk;
    uint8_t sense_key = 0, sense_code = 0;
    uint64_t at = 0, data_at = 0;
  };
  // A request that has been offered and, perhaps, answered.
  struct Asked {
    uint64_t at, data_at;
  };
  static LunField lun(uint8_t target, uint16_t number = 0) { return Address{target, number}.encode(); }
  Asked offer(const Cdb& cdb, const std::string& out, uint32_t in, LunField to, uint64_t id = 1,
              FakeQueue* by = nullptr) {
    FakeQueue& queue = by != nullptr ? *by : requests;
    RequestHeader header{.lun = to, .id = id, .task_attr = 0, .prio = 0, .crn = 0};
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes.resize(sizeof header + cdb_bytes);
    std::copy(cdb.begin(), cdb.end(), bytes.begin() + sizeof header);
    auto chain = queue.chain().readable(bytes);
    size_t answer_index = 1;
    if (!out.empty()) {
      chain.readable(out);
      answer_index = 2;
    }
    chain.writable(static_cast<uint32_t>(sizeof(ResponseHeader)) + sense_bytes);
    if (in != 0) chain.writable(in);
    chain.offer();
    const uint64_t at = chain.address(answer_index);
    memory.put<uint8_t>(at + offsetof(ResponseHeader, response), 0xee);
    return {at, in != 0 ? chain.address(answer_index + 1) : 0};
  }
  Answer look(const Asked& asked, FakeQueue* by = nullptr) {
    Answer answer;
    if (const auto used = (by != nullptr ? *by : requests).used()) {
      answer.used = true;
      answer.length = used->length;
    }
    answer.header = memory.get<ResponseHeader>(asked.at);
    answer.response = static_cast<Response>(answer.header.response);
    answer.sense_key = memory.get<uint8_t>(asked.at + sizeof(ResponseHeader) + 2);
    answer.sense_code = memory.get<uint8_t>(asked.at + sizeof(ResponseHeader) + 12);
    answer.data_at = asked.data_at;
    answer.at = asked.at;
    return answer;
  }
  Answer run(const Cdb& cdb, const std::string& out = {}, uint32_t in = 0, LunField to = lun(kTarget)) {
    const Asked asked = offer(cdb, out, in, to);
    device->notify(kFirstRequestQueue);
    const Answer answer = look(asked);
    EXPECT_TRUE(answer.used);
    return answer;
  }
  // A task management function; its answer, or 0xee while it has none.
  uint64_t offer_task(TaskFunction function, LunField to = lun(kTarget), uint64_t id = 1) {
    TaskRequest task{.type = 0, .subtype = static_cast<uint32_t>(function), .lun = to, .id = id};
    auto chain = control.chain().readable_object(task).writable(1);
    memory.put<uint8_t>(chain.address(1), 0xee);
    chain.offer();
    device->notify(kControlQueue);
    return chain.address(1);
  }
  Response task(TaskFunction function, LunField to = lun(kTarget), uint64_t id = 1) {
    return static_cast<Response>(memory.get<uint8_t>(offer_task(function, to, id)));
  }
  uint64_t offer_event() {
    auto chain = events.chain().writable(sizeof(Event));
    chain.offer();
    device->notify(kEventQueue);
    return chain.address(0);
  }
  static Cdb read(uint8_t block, uint8_t count = 1) { return {0x28, 0, 0, 0, 0, block, 0, 0, count, 0}; }
  static Cdb write(uint8_t block) { return {0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0}; }

  GuestMemory memory;
  FakeQueue control{memory, 16}, events{memory, 4}, requests{memory, 16}, more{memory, 16};
  std::shared_ptr<MemoryNode> node = std::make_shared<MemoryNode>();
  Options options;
  CountingTransport transport;
  std::unique_ptr<ScsiDevice> device;
  uint64_t features_ = 0;
  uint32_t sense_bytes = kDefaultSenseBytes, cdb_bytes = kDefaultCdbBytes;
  bool test_attention = true;
};

TEST_F(ScsiTest, read) {
  start();
  node->data.replace(512, 5, "hello");
  const Answer answer = run(read(1), {}, 512);
  EXPECT_EQ(answer.response, Response::kOk);
  EXPECT_EQ(answer.header.status, 0);
  EXPECT_EQ(answer.header.residual, 0u);
  EXPECT_EQ(answer.length, 12u + 96 + 512);
  EXPECT_EQ(memory.bytes(answer.data_at, 5), "hello");
  EXPECT_EQ(transport.interrupts[kFirstRequestQueue], 2);
}

TEST_F(ScsiTest, write) {
  start();
  const Answer answer = run(write(3), std::string(512, 'w'));
  EXPECT_EQ(answer.response, Response::kOk);
  EXPECT_EQ(answer.length, 12u + 96);
  EXPECT_EQ(node->data.substr(1536, 512), std::string(512, 'w'));
}

TEST_F(ScsiTest, sense_data_of_a_failed_command) {
  start();
  const Answer answer = run(read(200), {}, 512);
  EXPECT_EQ(answer.response, Response::kOk);
  EXPECT_EQ(answer.header.status, 2);
  EXPECT_EQ(answer.header.sense_len, 18u);
  EXPECT_EQ(answer.header.residual, 512u);
  EXPECT_EQ(answer.sense_key, 5);
  EXPECT_EQ(answer.sense_code, 0x21);
}

TEST_F(ScsiTest, residual_of_a_short_answer) {
  start();
  EXPECT_EQ(run(read(0), {}, 2048).header.residual, 1536u);
  EXPECT_EQ(run(write(0), std::string(1024, 'x')).header.residual, 512u);
  EXPECT_EQ(run({0x12, 0, 0, 0, 255, 0}, {}, 255).header.residual, 255u - 36);
}

TEST_F(ScsiTest, more_data_than_room_is_an_overrun) {
  start();
  const Answer answer = run(read(0, 2), {}, 512);
  EXPECT_EQ(answer.response, Response::kOverrun);
  EXPECT_EQ(answer.header.residual, 512u);
}

TEST_F(ScsiTest, sizes_that_the_driver_sets) {
  make();
  const auto set = [&](uint64_t offset, uint32_t value) {
    device->write_config(offset, std::as_bytes(std::span(&value, 1)));
  };
  const auto get = [&](uint64_t offset) {
    uint32_t value = 0;
    device->read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  EXPECT_EQ(get(20), 96u);
  EXPECT_EQ(get(24), 32u);
  set(20, 10);
  set(24, 16);
  set(0, 9);
  set(20, 0xffff'ffff);
  EXPECT_EQ(get(0), 1u);
  EXPECT_EQ(get(16), sizeof(Event));
  EXPECT_EQ(get(28), 255u << 16);
  EXPECT_EQ(get(32), 16383u);
  sense_bytes = 10;
  cdb_bytes = 16;
  test_attention = false;
  start();
  set(20, 96);  // too late
  const Answer answer = run({0x00});
  EXPECT_EQ(answer.header.sense_len, 10u);
  EXPECT_EQ(answer.sense_key, 6);
  EXPECT_EQ(answer.length, 22u);
  device->reset();
  EXPECT_EQ(get(20), 96u);
}

TEST_F(ScsiTest, legacy_driver_sets_sizes_byte_by_byte) {
  make();
  const std::array<uint8_t, 4> bytes = {10, 0, 0, 0};
  for (size_t i = 0; i < bytes.size(); ++i)
    device->write_config(20 + i, std::as_bytes(std::span(&bytes[i], 1)));
  sense_bytes = 10;
  test_attention = false;
  start(0);
  const Answer answer = run({0x00});
  EXPECT_EQ(answer.header.sense_len, 10u);
  EXPECT_EQ(answer.sense_key, 6);
}

TEST_F(ScsiTest, target_that_is_not_there) {
  start();
  for (const LunField& to :
       {lun(3), LunField{}, LunField{2, kTarget}, LunField{1, kTarget, 0x80}, LunField{0xc1, 0x01}}) {
    const Answer answer = run({0x00}, {}, 0, to);
    EXPECT_EQ(answer.response, Response::kBadTarget);
    EXPECT_EQ(answer.header.sense_len, 0u);
  }
}

TEST_F(ScsiTest, unit_that_is_not_there) {
  start();
  EXPECT_EQ(run({0x00}, {}, 0, lun(kTarget, 1)).sense_code, 0x25);
  const Answer inquiry = run({0x12, 0, 0, 0, 36, 0}, {}, 36, lun(kTarget, 300));
  EXPECT_EQ(inquiry.header.status, 0);
  EXPECT_EQ(memory.get<uint8_t>(inquiry.data_at), 0x7f);
}

TEST_F(ScsiTest, units_of_a_target) {
  make();
  ASSERT_TRUE(add(kTarget, 300, std::make_shared<MemoryNode>()));
  ASSERT_TRUE(add(7, 1, std::make_shared<MemoryNode>()));
  EXPECT_FALSE(add(7, 1, std::make_shared<MemoryNode>()));
  start();
  const Cdb report = {0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0};
  const Answer answer = run(report, {}, 256);
  EXPECT_EQ(memory.bytes(answer.data_at, 24),
            std::string("\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\x41\x2c\0\0\0\0\0\0", 24));
  // A target without unit 0 tells of its units too.
  const Answer other = run(report, {}, 256, lun(7, 0));
  EXPECT_EQ(memory.bytes(other.data_at + 8, 2), std::string("\0\x01", 2));
  EXPECT_EQ(run(report, {}, 256, LunField{0xc1, 0x01}).header.residual, 256u - 8);
  EXPECT_EQ(run({0x00}, {}, 0, lun(kTarget, 300)).sense_code, 0x29);
}

TEST_F(ScsiTest, request_without_its_headers_needs_a_reset) {
  start();
  requests.chain().readable(std::string(50, '\0')).writable(108).offer();
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(transport.resets_needed, 1);
  EXPECT_FALSE(requests.used());
}

TEST_F(ScsiTest, answer_without_room_needs_a_reset) {
  start();
  requests.chain().readable(std::string(51, '\0')).writable(107).offer();
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(ScsiTest, batch_gives_one_interrupt) {
  start();
  transport.interrupts[kFirstRequestQueue] = 0;
  for (int i = 0; i < 4; ++i) offer(read(0), {}, 512, lun(kTarget));
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(requests.used_index(), 5);
  EXPECT_EQ(transport.interrupts[kFirstRequestQueue], 1);
}

TEST_F(ScsiTest, several_queues) {
  options.num_queues = 2;
  start();
  const Asked asked = offer(read(0), {}, 512, lun(kTarget), 1, &more);
  device->notify(kFirstRequestQueue + 1);
  EXPECT_EQ(look(asked, &more).response, Response::kOk);
  EXPECT_EQ(transport.interrupts[kFirstRequestQueue + 1], 1);
}

TEST_F(ScsiTest, late_completion_interrupts) {
  start();
  node->hold = true;
  const Asked asked = offer(read(0), {}, 512, lun(kTarget));
  device->notify(kFirstRequestQueue);
  EXPECT_FALSE(look(asked).used);
  node->release();
  EXPECT_EQ(look(asked).response, Response::kOk);
  EXPECT_EQ(transport.interrupts[kFirstRequestQueue], 2);
}

TEST_F(ScsiTest, requests_in_flight_are_bounded_by_the_queue) {
  start();
  node->hold = true;
  const uint16_t head = [&] {
    offer({0x35}, {}, 0, lun(kTarget));
    return static_cast<uint16_t>(2);
  }();
  for (int i = 0; i < 15; ++i) requests.make_available(head);
  device->notify(kFirstRequestQueue);
  for (int i = 0; i < 16; ++i) requests.make_available(head);
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(node->held_tasks.size(), 16u);
  node->hold = false;
  node->release();
  EXPECT_EQ(requests.used_index(), 33);
}

TEST_F(ScsiTest, abort_task_waits_for_the_command) {
  start();
  node->hold = true;
  const Asked first = offer(read(0), {}, 512, lun(kTarget), 7);
  const Asked second = offer(read(0), {}, 512, lun(kTarget), 8);
  device->notify(kFirstRequestQueue);
  const uint64_t at = offer_task(TaskFunction::kAbortTask, lun(kTarget), 8);
  EXPECT_EQ(memory.get<uint8_t>(at), 0xee);
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  EXPECT_EQ(look(first).response, Response::kOk);
  EXPECT_EQ(look(second).response, Response::kAborted);
  EXPECT_EQ(transport.interrupts[kControlQueue], 1);
}

TEST_F(ScsiTest, abort_of_what_has_ended) {
  start();
  EXPECT_EQ(task(TaskFunction::kAbortTask), Response::kOk);
  EXPECT_EQ(task(TaskFunction::kAbortTaskSet), Response::kOk);
  EXPECT_EQ(task(TaskFunction::kClearTaskSet), Response::kOk);
}

TEST_F(ScsiTest, task_set_is_that_of_the_unit) {
  make();
  const auto other = std::make_shared<MemoryNode>();
  ASSERT_TRUE(add(kTarget, 1, other));
  start();
  run({0x00}, {}, 0, lun(kTarget, 1));
  node->hold = other->hold = true;
  const Asked mine = offer(read(0), {}, 512, lun(kTarget), 7);
  const Asked others = offer(read(0), {}, 512, lun(kTarget, 1), 7);
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(task(TaskFunction::kQueryTaskSet), Response::kFunctionSucceeded);
  const uint64_t at = offer_task(TaskFunction::kAbortTaskSet);
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  EXPECT_EQ(look(mine).response, Response::kAborted);
  other->release();
  EXPECT_EQ(look(others).response, Response::kOk);
}

TEST_F(ScsiTest, unit_reset) {
  start();
  node->hold = true;
  const Asked asked = offer(read(0), {}, 512, lun(kTarget), 7);
  device->notify(kFirstRequestQueue);
  const uint64_t at = offer_task(TaskFunction::kUnitReset);
  node->hold = false;
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  EXPECT_EQ(look(asked).response, Response::kReset);
  EXPECT_EQ(run({0x00}).sense_code, 0x29);
}

TEST_F(ScsiTest, nexus_reset_is_of_all_units) {
  make();
  ASSERT_TRUE(add(kTarget, 1, std::make_shared<MemoryNode>()));
  start();
  run({0x00}, {}, 0, lun(kTarget, 1));
  EXPECT_EQ(task(TaskFunction::kNexusReset), Response::kOk);
  EXPECT_EQ(run({0x00}).sense_code, 0x29);
  EXPECT_EQ(run({0x00}, {}, 0, lun(kTarget, 1)).sense_code, 0x29);
}

TEST_F(ScsiTest, query_task) {
  start();
  node->hold = true;
  offer(read(0), {}, 512, lun(kTarget), 7);
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(task(TaskFunction::kQueryTask, lun(kTarget), 7), Response::kFunctionSucceeded);
  EXPECT_EQ(task(TaskFunction::kQueryTask, lun(kTarget), 8), Response::kOk);
  node->release();
  EXPECT_EQ(task(TaskFunction::kQueryTaskSet), Response::kOk);
}

TEST_F(ScsiTest, functions_that_cannot_be) {
  start();
  EXPECT_EQ(task(TaskFunction::kUnitReset, lun(9)), Response::kBadTarget);
  EXPECT_EQ(task(TaskFunction::kUnitReset, LunField{}), Response::kBadTarget);
  EXPECT_EQ(task(TaskFunction::kUnitReset, lun(kTarget, 5)), Response::kIncorrectLun);
  EXPECT_EQ(task(TaskFunction::kClearAca), Response::kFunctionRejected);
  EXPECT_EQ(task(static_cast<TaskFunction>(77)), Response::kFunctionRejected);
}

TEST_F(ScsiTest, functions_that_wait_are_bounded) {
  start();
  node->hold = true;
  const Asked asked = offer(read(0), {}, 512, lun(kTarget), 7);
  device->notify(kFirstRequestQueue);
  TaskRequest abort{.type = 0, .subtype = 0, .lun = lun(kTarget), .id = 7};
  auto chain = control.chain().readable_object(abort).writable(1);
  const uint16_t head = chain.offer();
  for (unsigned i = 1; i < 16; ++i) control.make_available(head);
  device->notify(kControlQueue);
  EXPECT_EQ(control.used_index(), 0);
  node->release();
  EXPECT_EQ(look(asked).response, Response::kAborted);
  EXPECT_EQ(control.used_index(), 16);  // the rest found nothing to wait for
}

TEST_F(ScsiTest, reset_waits_for_functions) {
  start();
  node->hold = true;
  offer(read(0), {}, 512, lun(kTarget), 7);
  device->notify(kFirstRequestQueue);
  offer_task(TaskFunction::kAbortTask, lun(kTarget), 7);
  std::thread other([&] { device->reset(); });
  node->hold = false;
  node->release();
  other.join();
  control.restart();
  events.restart();
  requests.restart();
  test_attention = true;
  start();
  EXPECT_EQ(run(read(0), {}, 512).response, Response::kOk);
}

TEST_F(ScsiTest, control_requests_against_the_rules) {
  const auto breaks = [&](auto&& chain) {
    if (device) device->reset();
    control.restart();
    events.restart();
    requests.restart();
    start();
    const int before = transport.resets_needed;
    chain(control.chain()).offer();
    device->notify(kControlQueue);
    EXPECT_EQ(transport.resets_needed, before + 1);
  };
  using Builder = FakeQueue::Builder;
  breaks([](Builder chain) { return chain.readable("abc").writable(1); });
  breaks([](Builder chain) { return chain.readable(std::string(23, '\0')).writable(1); });
  breaks([](Builder chain) { return chain.readable(std::string(24, '\0')); });
  breaks([](Builder chain) { return chain.readable(std::string("\x09\0\0\0", 4)).writable(8); });
  breaks([](Builder chain) { return chain.readable(std::string("\x01\0\0\0", 4)).writable(8); });
  breaks([](Builder chain) {
    return chain.readable(std::string("\x02\0\0\0", 4) + std::string(12, '\0')).writable(4);
  });
}

TEST_F(ScsiTest, notifications_that_a_unit_can_give) {
  start();
  const auto ask = [&](uint32_t type, LunField to) {
    AsyncRequest wanted{.type = type, .lun = to, .event_requested = 0xff};
    auto chain = control.chain().readable_object(wanted).writable(5);
    chain.offer();
    device->notify(kControlQueue);
    return memory.get<AsyncResponse>(chain.address(1));
  };
  EXPECT_EQ(ask(1, lun(kTarget)).event_actual, 0u);  // a disk gives none
  EXPECT_EQ(ask(2, lun(kTarget)).response, 0);
  EXPECT_EQ(ask(2, lun(kTarget, 3)).response, static_cast<uint8_t>(Response::kIncorrectLun));
  EXPECT_EQ(ask(2, lun(9)).response, static_cast<uint8_t>(Response::kBadTarget));
}

TEST_F(ScsiTest, media_are_told_to_drivers_that_subscribe) {
  make();
  const auto cd = std::make_shared<ostler::scsi::Cd>(std::make_shared<MemoryNode>(), ostler::scsi::Options{});
  ASSERT_TRUE(device->add(4, 0, cd));
  start();
  const auto subscribe = [&](uint32_t events_wanted) {
    AsyncRequest wanted{.type = 2, .lun = lun(4), .event_requested = events_wanted};
    auto chain = control.chain().readable_object(wanted).writable(5);
    chain.offer();
    device->notify(kControlQueue);
    return memory.get<AsyncResponse>(chain.address(1)).event_actual;
  };
  const uint64_t at = offer_event();
  cd->open_tray(false);
  EXPECT_FALSE(events.used());
  EXPECT_EQ(subscribe(0xff), kAsyncMediaChange);
  load(save());  // is remembered
  cd->close_tray();
  const auto event = memory.get<Event>(at);
  EXPECT_EQ(event.event, 2u);
  EXPECT_EQ(event.lun, lun(4));
  EXPECT_EQ(event.reason, kAsyncMediaChange);
  EXPECT_EQ(subscribe(0), 0u);
}

TEST_F(ScsiTest, another_size_is_an_event) {
  start();
  const uint64_t at = offer_event();
  EXPECT_EQ(transport.interrupts[kEventQueue], 0);
  node->data.resize(2 * MemoryNode::kBytes);
  node->resized();
  const auto event = memory.get<Event>(at);
  EXPECT_EQ(event.event, 3u);
  EXPECT_EQ(event.lun, lun(kTarget));
  EXPECT_EQ(event.reason, 0x092au);
  EXPECT_EQ(transport.interrupts[kEventQueue], 1);
  EXPECT_EQ(events.used()->length, sizeof event);
}

TEST_F(ScsiTest, events_without_room_are_told_as_missed) {
  start();
  node->resized();
  const uint64_t first = offer_event();
  EXPECT_EQ(memory.get<Event>(first).event, kEventsMissed);
  const uint64_t second = offer_event();
  node->resized();
  EXPECT_EQ(memory.get<Event>(second).event, 3u);
}

TEST_F(ScsiTest, events_that_the_driver_does_not_want) {
  start(feature(VIRTIO_F_VERSION_1));
  offer_event();
  node->resized();
  ASSERT_TRUE(add(9, 0, std::make_shared<MemoryNode>()));
  EXPECT_EQ(transport.interrupts[kEventQueue], 0);
}

TEST_F(ScsiTest, short_event_buffer_needs_a_reset) {
  start();
  events.chain().writable(15).offer();
  device->notify(kEventQueue);
  node->resized();
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(ScsiTest, unit_that_comes_and_goes) {
  start();
  const uint64_t first = offer_event(), second = offer_event();
  const auto disk = std::make_shared<MemoryNode>();
  ASSERT_TRUE(add(9, 300, disk));
  const auto came = memory.get<Event>(first);
  EXPECT_EQ(came.event, 1u);
  EXPECT_EQ(came.reason, kResetRescan);
  EXPECT_EQ(came.lun, lun(9, 300));
  EXPECT_EQ(run({0x00}, {}, 0, lun(9, 300)).sense_code, 0x29);
  disk->hold = true;
  const Asked asked = offer(read(0), {}, 512, lun(9, 300));
  device->notify(kFirstRequestQueue);
  device->remove(9, 300);
  EXPECT_EQ(memory.get<Event>(second).reason, kResetRemoved);
  disk->release();
  EXPECT_EQ(look(asked).response, Response::kOk);
  EXPECT_EQ(run({0x00}, {}, 0, lun(9, 300)).response, Response::kBadTarget);
}

TEST_F(ScsiTest, units_are_reset_with_the_controller) {
  start();
  device->reset();
  control.restart();
  events.restart();
  requests.restart();
  start();
}

TEST_F(ScsiTest, state_survives) {
  start();
  node->resized();
  const auto saved = save();
  device->reset();
  load(saved);
  EXPECT_EQ(memory.get<Event>(offer_event()).event, kEventsMissed);
  EXPECT_EQ(run({0x00}).sense_code, sense::kCapacityChanged.code);
  EXPECT_EQ(run(read(0), {}, 512).response, Response::kOk);
}

TEST_F(ScsiTest, state_of_other_units_is_refused) {
  start();
  const auto saved = save();
  ASSERT_TRUE(add(9, 0, std::make_shared<MemoryNode>()));
  load(saved, false);
}

class KeptCommands : public ScsiTest {
 protected:
  // A write of 'w' to block 1 that finds the host's disk full.
  Asked fail_a_write(uint64_t id = 1) {
    node->fail_with = ENOSPC;
    node->verdict = ostler::block::Verdict::kKeep;
    const Asked asked = offer(write(1), std::string(512, 'w'), 0, lun(kTarget), id);
    device->notify(kFirstRequestQueue);
    EXPECT_EQ(node->paused_for, ENOSPC);
    EXPECT_FALSE(look(asked).used);
    return asked;
  }
};

TEST_F(KeptCommands, are_executed_again) {
  start();
  const Asked asked = fail_a_write();
  node->paused_for = 0;
  node->resume();  // and fails again
  EXPECT_EQ(node->paused_for, ENOSPC);
  node->fail_with = 0;
  node->resume();
  const Answer answer = look(asked);
  EXPECT_TRUE(answer.used);
  EXPECT_EQ(answer.response, Response::kOk);
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, 'w'));
  node->resume();
  EXPECT_FALSE(requests.used());
}

TEST_F(KeptCommands, of_other_units_stay) {
  make();
  const auto other = std::make_shared<MemoryNode>();
  ASSERT_TRUE(add(kTarget, 1, other));
  start();
  const Asked asked = fail_a_write();
  node->fail_with = 0;
  other->resume();
  EXPECT_FALSE(look(asked).used);
  node->resume();
  EXPECT_TRUE(look(asked).used);
}

TEST_F(KeptCommands, are_forgotten_by_a_reset) {
  start();
  fail_a_write();
  device->reset();
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, '\0'));
}

TEST_F(KeptCommands, are_part_of_the_saved_state) {
  start();
  const Asked asked = fail_a_write();
  const auto saved = save();
  device->reset();
  load(saved);
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(look(asked).response, Response::kOk);
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, 'w'));
}

TEST_F(KeptCommands, are_aborted_at_once) {
  start();
  const Asked asked = fail_a_write(7);
  EXPECT_EQ(task(TaskFunction::kQueryTask, lun(kTarget), 7), Response::kFunctionSucceeded);
  EXPECT_EQ(task(TaskFunction::kAbortTask, lun(kTarget), 7), Response::kOk);
  EXPECT_EQ(look(asked).response, Response::kAborted);
  node->fail_with = 0;
  node->resume();
  EXPECT_FALSE(requests.used());
}

TEST_F(KeptCommands, of_a_unit_that_goes) {
  start();
  const Asked asked = fail_a_write();
  device->remove(kTarget, 0);
  EXPECT_EQ(look(asked).response, Response::kBadTarget);
}

TEST_F(KeptCommands, are_all_found_while_they_are_executed_again) {
  start();
  fail_a_write(7);
  const Asked second = fail_a_write(8);
  node->hold = true;
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(task(TaskFunction::kQueryTask, lun(kTarget), 7), Response::kFunctionSucceeded);
  const uint64_t at = offer_task(TaskFunction::kAbortTask, lun(kTarget), 8);
  EXPECT_EQ(memory.get<uint8_t>(at), 0xee);
  node->hold = false;
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  look(second);
  EXPECT_EQ(look(second).response, Response::kAborted);
}

TEST_F(KeptCommands, of_a_hostile_stream_break_the_queue) {
  start();
  fail_a_write();
  const auto saved = save();
  requests.set_descriptor(2, {.address = 0, .length = 0, .flags = 0, .next = 0});
  device->reset();
  memory.put_bytes(requests.setup.descriptors, std::string(256, '\0'));
  load(saved);
  node->resume();
  EXPECT_FALSE(requests.used());
}

TEST_F(KeptCommands, never_exceed_the_queue) {
  start();
  node->fail_with = ENOSPC;
  node->verdict = ostler::block::Verdict::kKeep;
  offer({0x35}, {}, 0, lun(kTarget));
  const uint16_t head = 2;
  for (int i = 1; i < 16; ++i) requests.make_available(head);
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(node->flushes, 16);
  for (int i = 0; i < 16; ++i) requests.make_available(head);
  device->notify(kFirstRequestQueue);
  EXPECT_EQ(node->flushes, 16);
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(node->flushes, 16 + 16 + 16);
}

TEST(ScsiAddress, formats_of_units) {
  EXPECT_EQ((Address{3, 5}.encode()), (LunField{1, 3, 0, 5}));
  EXPECT_EQ((Address{3, 300}.encode()), (LunField{1, 3, 0x41, 0x2c}));
  EXPECT_EQ(Address::decode({1, 3, 0x40, 5})->lun, 5);
  EXPECT_EQ(Address::decode({1, 3, 0x7f, 0xff})->lun, 16383);
  EXPECT_FALSE(Address::decode({1, 3, 0x80, 5}));
  EXPECT_FALSE(Address::decode({1, 3, 0x01, 5}));
  EXPECT_TRUE(Address::decode({0xc1, 1})->well_known);
}

TEST(ScsiProperties, parse) {
  const config::KeyValue values[] = {{"num_queues", "4"}, {"iothread", "io"}, {"virtqueue_size", "128"}};
  const auto parsed = pci_properties().parse(values);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->num_queues, 4);
  EXPECT_EQ(parsed->iothread, "io");
}

}  // namespace
}  // namespace ostler::virtio::scsi
