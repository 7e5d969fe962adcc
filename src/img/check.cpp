// check: an image's tables are looked through, and repaired if asked for. Exit status: 0 clean, 1 the check
// failed, 2 the image is corrupt, 3 it has leaks only, 63 the format has nothing to check.
#include "block/capabilities.h"
#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

using block::CheckReport;
using nlohmann::ordered_json;

constexpr OptionName kOptions[] = {kObject, kImageOptions, kForceShare, kFormat,
                                   kOutput, kSourceCache,  kQuiet,      {"r", 'r', "repair", true}};
constexpr int kNothingToCheck = 63;

ordered_json report_json(const CheckReport& report, const std::string& filename, const std::string& format) {
  ordered_json object;
  const auto add = [&](const char* key, uint64_t value) {
    if (value != 0) object[key] = value;
  };
  add("image-end-offset", report.image_end_offset);
  add("total-clusters", report.total_clusters);
  object["check-errors"] = report.errors;
  add("corruptions", report.corruptions);
  add("corruptions-fixed", report.corruptions_fixed);
  add("leaks", report.leaks);
  add("leaks-fixed", report.leaks_fixed);
  add("allocated-clusters", report.allocated_clusters);
  add("fragmented-clusters", report.fragmented_clusters);
  add("compressed-clusters", report.compressed_clusters);
  object["filename"] = filename;
  object["format"] = format;
  return object;
}

std::string report_text(const CheckReport& report) {
  std::string text;
  if (report.corruptions == 0 && report.leaks == 0 && report.errors == 0) {
    text += "No errors were found on the image.\n";
  } else {
    if (report.corruptions != 0)
      text += fmt::format(
          "\n{} errors were found on the image.\n"
          "Data may be corrupted, or further writes to the image may corrupt it.\n",
          report.corruptions);
    if (report.leaks != 0)
      text += fmt::format(
          "\n{} leaked clusters were found on the image.\n"
          "This means waste of disk space, but no harm to data.\n",
          report.leaks);
    if (report.errors != 0)
      text += fmt::format("\n{} internal errors have occurred during the check.\n", report.errors);
  }
  if (report.total_clusters != 0 && report.allocated_clusters != 0) {
    const auto share = [](uint64_t part, uint64_t whole) {
      return 100 * static_cast<double>(part) / static_cast<double>(whole);
    };
    text += fmt::format("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
                        report.allocated_clusters, report.total_clusters,
                        share(report.allocated_clusters, report.total_clusters),
                        share(report.fragmented_clusters, report.allocated_clusters),
                        share(report.compressed_clusters, report.allocated_clusters));
  }
  if (report.image_end_offset != 0) text += fmt::format("Image end offset: {}\n", report.image_end_offset);
  return text;
}

void tell_messages(const CheckReport& report) {
  for (const std::string& message : report.messages) fmt::print(stderr, "{}\n", message);
  if (report.messages_left_out != 0)
    fmt::print(stderr, "… and {} more of this kind\n", report.messages_left_out);
}

int status_of(const CheckReport& report) {
  if (report.corruptions != 0) return 2;
  if (report.leaks != 0) return 3;
  return report.errors != 0 ? 1 : 0;
}

}  // namespace

Result<int> check(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const bool json, wants_json(arguments));
  block::CheckOptions options;
  const std::string repair = arguments.value("r");
  if (repair == "all")
    options = {.repair_leaks = true, .repair_errors = true};
  else if (repair == "leaks")
    options = {.repair_leaks = true};
  else if (arguments.has("r"))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-r: '{}' is nothing to repair; there are leaks and all", repair));
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(auto request, image_request(arguments, name, options.repair_leaks, "T"));
  request.flags.check = true;
  TRY_ASSIGN(Image image, Image::open(tool, request));
  block::Checker* const checker = image.node()->checker();
  if (checker == nullptr) {
    tool.complain(fmt::format("{}: the format '{}' has no tables to check", name, image.node()->driver()));
    return kNothingToCheck;
  }
  TRY_ASSIGN(CheckReport report, tool.run(checker->check(options)));
  const bool tell = !json && !tool.quiet;
  if (tell) tell_messages(report);
  if (report.corruptions_fixed != 0 || report.leaks_fixed != 0) {
    const uint64_t corruptions = report.corruptions_fixed, leaks = report.leaks_fixed;
    if (tell)
      fmt::print(
          "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} "
          "corruptions\n\nDouble checking the fixed image now...\n",
          leaks, corruptions);
    TRY_ASSIGN(report, tool.run(checker->check({})));
    if (tell) tell_messages(report);
    report.corruptions_fixed = corruptions;
    report.leaks_fixed = leaks;
  }
  if (json)
    std::fputs(json_text(report_json(report, name, image.node()->driver())).c_str(), stdout);
  else
    tool.say(report_text(report));
  TRY(image.close());
  return status_of(report);
}

}  // namespace ostler::img
