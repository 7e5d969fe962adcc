#include "gdb/target_description.h"

#include <fmt/format.h>

#include "gdb/registers.h"

namespace ostler::gdb {
namespace {

struct Bit {
  std::string_view name;
  unsigned first, last;
};

// SDM Vol. 1 Figure 3-8.
constexpr Bit kEflags[] = {{"CF", 0, 0},     {"", 1, 1},      {"PF", 2, 2},   {"AF", 4, 4},   {"ZF", 6, 6},
                           {"SF", 7, 7},     {"TF", 8, 8},    {"IF", 9, 9},   {"DF", 10, 10}, {"OF", 11, 11},
                           {"IOPL", 12, 13}, {"NT", 14, 14},  {"RF", 16, 16}, {"VM", 17, 17}, {"AC", 18, 18},
                           {"VIF", 19, 19},  {"VIP", 20, 20}, {"ID", 21, 21}};
// SDM Vol. 1 Figure 10-3.
constexpr Bit kMxcsr[] = {{"IE", 0, 0},   {"DE", 1, 1},   {"ZE", 2, 2},   {"OE", 3, 3},   {"UE", 4, 4},
                          {"PE", 5, 5},   {"DAZ", 6, 6},  {"IM", 7, 7},   {"DM", 8, 8},   {"ZM", 9, 9},
                          {"OM", 10, 10}, {"UM", 11, 11}, {"PM", 12, 12}, {"RC", 13, 14}, {"FZ", 15, 15}};

template <size_t count>
std::string flags_type(std::string_view id, const Bit (&fields)[count]) {
  std::string out = fmt::format("<flags id=\"{}\" size=\"4\">\n", id);
  for (const Bit& field : fields)
    out += fmt::format("<field name=\"{}\" start=\"{}\" end=\"{}\" type=\"{}\"/>\n", field.name, field.first,
                       field.last, field.first == field.last ? "bool" : "uint32");
  return out + "</flags>\n";
}

std::string vector_type() {
  struct Lane {
    std::string_view name, type;
    unsigned count;
  };
  constexpr Lane kLanes[] = {{"v4_float", "ieee_single", 4}, {"v2_double", "ieee_double", 2},
                             {"v16_int8", "int8", 16},       {"v8_int16", "int16", 8},
                             {"v4_int32", "int32", 4},       {"v2_int64", "int64", 2}};
  std::string vectors, fields;
  for (const Lane& lane : kLanes) {
    vectors +=
        fmt::format("<vector id=\"{}_t\" type=\"{}\" count=\"{}\"/>\n", lane.name, lane.type, lane.count);
    fields += fmt::format("<field name=\"{0}\" type=\"{0}_t\"/>\n", lane.name);
  }
  return vectors + "<union id=\"vec128\">\n" + fields +
         "<field name=\"uint128\" type=\"uint128\"/>\n</union>\n";
}

std::string make() {
  std::string out =
      "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
      "<target>\n<architecture>i386:x86-64</architecture>\n";
  std::string_view feature;
  for (const Register& each : registers()) {
    if (each.feature != feature) {
      if (!feature.empty()) out += "</feature>\n";
      feature = each.feature;
      out += fmt::format("<feature name=\"{}\">\n", feature);
      if (each.name == "rax") out += flags_type("eflags", kEflags);
      if (each.name == "xmm0") out += vector_type() + flags_type("mxcsr", kMxcsr);
    }
    out += fmt::format("<reg name=\"{}\" bitsize=\"{}\" type=\"{}\" group=\"{}\"/>\n", each.name, each.bits,
                       each.type, each.group);
  }
  return out + "</feature>\n</target>\n";
}

}  // namespace

const std::string& target_description() {
  static const std::string kText = make();
  return kText;
}

}  // namespace ostler::gdb
