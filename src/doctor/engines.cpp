#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "accel/kvm/system.h"
#include "doctor/checks.h"
#include "x86/cpu_model.h"
#include "x86/host_cpu.h"

namespace ostler::doctor {
namespace {

namespace kvm = accel::kvm;

std::vector<std::string> names_of(const x86::FeatureSet& features) {
  std::vector<std::string> out;
  for (size_t i = 0; i < x86::kFeatureCount; ++i) {
    const auto feature = static_cast<x86::Feature>(i);
    if (features.has(feature)) out.emplace_back(x86::feature_info(feature).spelling);
  }
  return out;
}

x86::FeatureSet without(const x86::FeatureSet& all, const x86::FeatureSet& some) {
  x86::FeatureSet out = all;
  for (size_t i = 0; i < x86::kFeatureCount; ++i) {
    const auto feature = static_cast<x86::Feature>(i);
    if (some.has(feature)) out.set(feature, false);
  }
  return out;
}

Finding check_kvm(const Host& host, const Result<std::shared_ptr<kvm::System>>& system) {
  Finding finding{.id = "kvm", .says = {}, .cure = {}};
  if (!system) {
    // The message is "what: cure", or only what.
    const std::string message = system.error().message();
    const size_t colon = message.find(": ");
    finding.state = State::kMissing;
    finding.says = message.substr(0, colon);
    if (colon != std::string::npos) finding.cure = message.substr(colon + 2);
    if (!host.exists("/dev/kvm") && host.exists("/sys/class/misc/kvm"))  // the kernel has it
      finding.cure = "give it to the container (--device /dev/kvm)";
    return finding;
  }
  const auto speed = kvm::measure_speed(**system);
  if (!speed) {
    finding.state = State::kMissing;
    finding.says = speed.error().message();
    return finding;
  }
  finding.figures = {{"million-instructions-per-second", fmt::format("{:.1f}", *speed)}};
  if (*speed >= kvm::kLeastSpeed) {
    finding.says = "/dev/kvm runs code on the processor itself";
    return finding;
  }
  finding.state = State::kLimited;
  finding.says = fmt::format(
      "/dev/kvm emulates each instruction, {:.1f} million a second; guests run by the binary translator, "
      "which is faster",
      *speed);
  finding.cure = "on a host that is a guest itself, allow nested virtualization in the outer one";
  return finding;
}

Finding features(std::string id, std::string_view engine, const x86::FeatureSet& offered) {
  const x86::FeatureSet& host = x86::HostCpu::current().features;
  const auto missing = names_of(without(host, offered));
  Finding finding{.id = std::move(id), .says = {}, .cure = {}};
  finding.says = fmt::format("{} offers guests {} processor features", engine, names_of(offered).size());
  if (!missing.empty())
    finding.says += fmt::format(", not {} of this host's (--json names them)", missing.size());
  finding.figures = {{"features", nlohmann::json(names_of(offered)).dump()},
                     {"host-features-not-offered", nlohmann::json(missing).dump()}};
  return finding;
}

}  // namespace

Section check_engines(const Host& host) {
  Section section{"Engines", {}};
  const auto system = kvm::System::open(host.path("/dev/kvm"));
  section.findings.push_back(check_kvm(host, system));
  auto model = x86::CpuModel::parse("max");
  if (!model) {
    section.findings.push_back(
        {.id = "translator", .state = State::kMissing, .says = model.error().message(), .cure = {}});
    return section;
  }
  section.findings.push_back(features("translator", "the binary translator", model->features()));
  if (system && model->restrict_to((*system)->features(), "KVM"))
    section.findings.push_back(features("kvm-features", "KVM", model->features()));
  return section;
}

}  // namespace ostler::doctor
