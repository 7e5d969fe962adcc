#include "img/program.h"

#include <algorithm>

#include "base/suggest.h"
#include "block/driver.h"
#include "img/commands.h"

namespace ostler::img {
namespace {

struct Command {
  std::string_view name;
  Result<int> (*run)(Tool& tool, Words words);
  std::string_view operands;  // as its help shows them
  std::string_view help;
  bool people_only = false;
};

constexpr Command kCommands[] = {
    {"amend", amend, "-o OPTIONS FILE", "change creation options of an existing image"},
    {"bench", bench, "[-w] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] FILE", "time requests to an image"},
    {"bitmap", bitmap, "--add|--remove|--clear|--enable|--disable|--merge SOURCE FILE BITMAP",
     "work on dirty bitmaps in an image"},
    {"check", check, "[-r leaks|all] FILE", "look for errors in an image's tables, and repair them"},
    {"commit", commit, "[-b BASE] [-d] FILE", "write an image's content into its backing file"},
    {"compare", compare, "[-s] FILE1 FILE2", "compare what two images hold"},
    {"convert", convert, "[-O FORMAT] [-c] [-o OPTIONS] FILE… TARGET", "copy images into a new one"},
    {"create", create, "[-f FORMAT] [-o OPTIONS] [-b BACKING -F FORMAT] FILE [SIZE]", "make a new image"},
    {"dd", dd, "[-O FORMAT] [bs=SIZE] [count=N] [skip=N] if=FILE of=FILE", "copy a part of an image"},
    {"import", import, "FILE [TARGET]", "make a qcow2 image of another program's (.ova, .vmdk, …)", true},
    {"info", info, "[--backing-chain] [--output=json] FILE", "describe an image"},
    {"map", map, "[--output=json] FILE", "tell where an image's content lies"},
    {"measure", measure, "[-O FORMAT] --size SIZE | FILE", "tell how large a file a new image needs"},
    {"rebase", rebase, "-b BACKING [-F FORMAT] [-u] FILE", "give an image another backing file"},
    {"resize", resize, "[--shrink] FILE [+|-]SIZE", "change an image's virtual size"},
    {"serve", serve,
     "[--socket PATH | --port N --address A] [-r] [-s] [-l SNAPSHOT] [-o OFFSET] [-x NAME] [-t] [-e N] "
     "[--fork] [--pid-file PATH] [--discard MODE] [--detect-zeroes MODE] [--aio MODE] [-n] [--tls-creds ID] "
     "FILE",
     "give an image to NBD clients"},
    {"shrink", shrink, "FILE", "give unused space back to the host, in place", true},
    {"snapshot", snapshot, "-l | -c NAME | -a NAME | -d NAME FILE", "work on snapshots inside an image"},
};

std::string command_list(const Style& style) {
  std::string text = fmt::format("usage: {} COMMAND [OPTION…] …\n\nCommands:\n", style.program);
  for (const Command& each : kCommands)
    if (!each.people_only || style.for_people)
      text += fmt::format("  {:<9} {}\n            {}\n", each.name, each.operands, each.help);
  text += R"(
Options of most commands:
  -f FORMAT          the image's format; without it, it is recognised
  -q                 say nothing but errors; no progress line
  -p                 show progress also where standard output is no terminal
  -t MODE, -T MODE   cache mode of the written and the read image: none, writeback, writethrough,
                     directsync, unsafe
  -U                 read an image that another program has open for writing
  --image-opts       the operand is a list of options, not a file name
  --object secret,id=ID,file=PATH
                     a passphrase for encrypted images
  --object tls-creds-x509|tls-creds-psk,id=ID,dir=DIR,endpoint=client|server
                     certificates or keys for disks over the network (tls-creds=ID, serve --tls-creds ID)
  --output=json      for programs
  -o help            the options of a format
Sizes are bytes, or have a suffix k, M, G, T, P or E (powers of 1024).

Supported formats:)";
  std::vector<std::string_view> names;
  for (const block::Driver* driver : block::drivers()) names.push_back(driver->name);
  std::ranges::sort(names);
  for (const std::string_view name : names) text += fmt::format(" {}", name);
  return text + "\n";
}

std::string unknown_command(const Style& style, const std::string& word) {
  std::vector<std::string_view> names;
  for (const Command& each : kCommands)
    if (!each.people_only || style.for_people) names.push_back(each.name);
  return fmt::format("there is no command '{}'{}; see {} --help", word, suggestion(word, names),
                     style.program);
}

int fail(const Style& style, const std::string& message) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", style.program, message);
  return 1;
}

}  // namespace

int run_program(Style style, std::span<const std::string> words, std::string_view version) {
  if (words.empty()) return fail(style, fmt::format("a command is missing; see {} --help", style.program));
  if (words[0] == "-V" || words[0] == "--version") {
    fmt::print("{} version {}\n", style.program, version);
    return 0;
  }
  const auto wants_help = [](const std::string& word) { return word == "-h" || word == "--help"; };
  if (wants_help(words[0]) || words[0] == "help") {
    std::fputs(command_list(style).c_str(), stdout);
    return 0;
  }
  const auto command = std::ranges::find(kCommands, words[0], &Command::name);
  if (command == std::end(kCommands) || (command->people_only && !style.for_people))
    return fail(style, unknown_command(style, words[0]));
  for (const std::string& word : words.subspan(1)) {
    if (word == "--") break;
    if (!wants_help(word)) continue;
    fmt::print("usage: {} {} {}\n{}\n\nAll commands and common options: {} --help\n", style.program,
               command->name, command->operands, command->help, style.program);
    return 0;
  }
  Tool tool(style);
  auto status = command->run(tool, words.subspan(1));
  if (!status) return fail(style, status.error().message());
  return *status;
}

}  // namespace ostler::img
