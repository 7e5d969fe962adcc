// A node "log" that keeps what is written to a file: for images whose "file" it is by name.
#pragma once

#include "block_fixture.h"
#include "write_log_node.h"

namespace ostler::block::test {

inline std::shared_ptr<WriteLogNode> add_write_log(IoContext& context, Opener& opener,
                                                   const std::string& path, bool writable = true) {
  OpenFlags flags;
  flags.writable = writable;
  auto file = context.run_until(opener.open(nlohmann::json{{"driver", "file"}, {"filename", path}}, flags));
  EXPECT_TRUE(file) << (file ? "" : file.error().message());
  auto log = std::make_shared<WriteLogNode>();
  EXPECT_TRUE(log->connect(*std::move(file), pass_through_permissions(writable)));
  EXPECT_TRUE(opener.add(log, "log"));
  return log;
}

}  // namespace ostler::block::test
