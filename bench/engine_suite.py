"""What `./dev bench engine` measures: workloads by group, with the goals of the project.

A workload's name is a case of bench/guest/engine/workload. `times` is the least accepted ratio of QEMU's time
to ours for one workload; a group's goal is the geometric mean of its workloads.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    name: str
    title: str
    workloads: tuple
    mean_times: float = None    # geometric mean of (QEMU's time / ours), at least
    times: float = None         # the same of each workload
    native: float = None        # geometric mean of (our time / native time), at most


# In the order of a boot: what must find the translator without translations comes first.
GROUPS = (
    Group("cold", "first run after boot, files in the page cache", ("cold-gcc", "cold-python", "cold-apt"), times=2.5),
    Group("steady", "programs",
          ("gcc", "sqlite", "python", "perl", "gzip", "bzip2", "xz", "zstd", "sha256", "chacha20", "rsa", "matrix", "fft",
           "virtual"), mean_times=3.5, times=1.7, native=3.2),
    Group("vector", "vector and crypto instructions",
          ("avx2-bytes", "avx2-words", "avx2-float", "avx2-double", "sse-bytes", "aes-ctr", "ghash", "aes-gcm", "crc32",
           "sha-ni"), mean_times=8),
    Group("system", "paths through the kernel", ("syscall", "pages", "fork", "exec", "pipe"), times=2),
)
# Measured in boots of their own (bench/engine_boots.py).
BOOTS = ("boot", "login", "smp", "translation")


def chosen(names):
    """([(group, workload)…] in the order of GROUPS, [boots]); names are workloads, groups or boots, none: all.
    KeyError with the first name that is none of these."""
    known = {g.name for g in GROUPS} | {w for g in GROUPS for w in g.workloads} | set(BOOTS)
    for name in names:
        if name not in known:
            raise KeyError(name)
    pairs = [(g, w) for g in GROUPS for w in g.workloads if not names or g.name in names or w in names]
    return pairs, [b for b in BOOTS if not names or b in names]


def all_names():
    return [f"{g.name} ({' '.join(g.workloads)})" for g in GROUPS] + list(BOOTS)
