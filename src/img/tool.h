// What every command of the image tool works with: the context, the opener, what was asked of all commands,
// and images that close themselves. One thread; a tool lives for one command.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block/client.h"
#include "block/open.h"
#include "img/arguments.h"
#include "img/progress.h"

namespace ostler::img {

struct Style {
  std::string program = "ostler-img";
  bool for_people = false;  // `ostler image`: formats are guessed from names
};

class Tool {
 public:
  explicit Tool(Style tool_style) : style(std::move(tool_style)) {}

  template <class T>
  T run(block::Task<T> task) {
    return context.run_until(std::move(task));
  }
  // On standard output, unless -q.
  void say(const std::string& text) const;
  // "program: warning: …" on standard error.
  void warn(const std::string& text) const;
  // "program: sentence" on standard error.
  void complain(const std::string& sentence) const;
  // A line on a terminal unless -q; percentages if -p and there is none.
  Progress::Form progress_form() const;

  const Style style;
  block::IoContext context;
  block::Opener opener;
  bool quiet = false;
  bool percent = false;  // -p
};

// Options that several commands have.
inline constexpr OptionName kObject = {"object", 0, "object", true};
inline constexpr OptionName kImageOptions = {"image-opts", 0, "image-opts"};
inline constexpr OptionName kForceShare = {"force-share", 'U', "force-share"};
inline constexpr OptionName kFormat = {"f", 'f', "", true};
inline constexpr OptionName kQuiet = {"q", 'q', "quiet"};
inline constexpr OptionName kPercent = {"p", 'p'};
inline constexpr OptionName kCache = {"t", 't', "", true};
inline constexpr OptionName kSourceCache = {"T", 'T', "", true};
inline constexpr OptionName kOutput = {"output", 0, "output", true};
inline constexpr OptionName kMoreOptions = {"o", 'o', "", true};

// Reads the words and applies --object, -q and -p to `tool`.
Result<Arguments> read_arguments(Tool& tool, std::span<const OptionName> options,
                                 std::span<const std::string> words);
// --output=json: true, human or none: false.
Result<bool> wants_json(const Arguments& arguments);
// All -o together, an object of strings. Null if there is none.
Result<nlohmann::json> creation_options(const Arguments& arguments);
// The only operand; else an error that says `what` is wanted.
Result<std::string> one_operand(const Arguments& arguments, std::string_view what);

// A chain that is open for this command. Writing ones are closed by close(), whose error counts.
class Image {
 public:
  Image() = default;
  Image(Image&&) noexcept = default;
  Image& operator=(Image&&) = delete;
  ~Image();

  struct Request {
    std::string name;
    std::string format = {};  // empty: recognised
    bool is_options = false;  // --image-opts
    block::OpenFlags flags = {};
  };
  static Result<Image> open(Tool& tool, const Request& request);

  const block::NodePtr& node() const { return client_->node(); }
  block::Client& client() const { return *client_; }
  uint64_t size() const { return client_->size(); }
  explicit operator bool() const { return client_ != nullptr; }
  Result<void> close();

 private:
  Tool* tool_ = nullptr;
  std::shared_ptr<block::Client> client_;
};

// What -f, -U, -t/-T and --image-opts say about the image `name`; -T if `cache` says so.
Result<Image::Request> image_request(const Arguments& arguments, std::string name, bool writable,
                                     std::string_view cache = "t", std::string_view otherwise = "writeback");

// The format that a file's suffix tells: "qcow2" of "disk.qcow2"; empty: none.
std::string format_of_name(std::string_view filename);

}  // namespace ostler::img
