// Guest memory in a file lives from that file's pages: one that its file system has no room for, that was cut
// off, or that the host's memory lost, is SIGBUS for whoever touches it (mmap(2)), and nobody can go on.
#pragma once

namespace ostler::memory {

// From now on the program ends by SIGBUS with a sentence that tells why. Once, before threads start; engines
// that look for faults of their own may take the signal over, and pass on what is not theirs.
void explain_missing_pages();

}  // namespace ostler::memory
