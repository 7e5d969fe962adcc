// The checks behind `ostler doctor`, a section each. They change nothing on the host.
#pragma once

#include "doctor/finding.h"
#include "doctor/host.h"
#include "doctor/process_limits.h"

namespace ostler::doctor {

Section check_engines(const Host& host);  // KVM and its speed, what the guest's processor has
Section check_memory(const Host& host);   // huge pages, KSM, what a control group lets it have
Section check_limits(const Host& host, const ProcessLimits& limits);  // mappings, locks, files, threads
Section check_storage(const Host& host);                              // io_uring
Section check_networks(const Host& host);                             // tap, bridges, vhost
Section check_sandbox(const Host& host);                              // user namespaces

}  // namespace ostler::doctor
