"""What this machine, or the part of it that is ours, has to run jobs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hardware:
    """What there is.

    Attributes:
        cores: that this process may use.
        memory: bytes that are free; None where that cannot be known.
        devices: the CUDA devices, each as CUDA_VISIBLE_DEVICES names it.
        threads: what the user set OMP_NUM_THREADS to.
    """

    cores: int
    memory: int | None = None
    devices: tuple[str, ...] = ()
    threads: int | None = None


def hardware(*, cuda: bool) -> Hardware:
    """What there is here; CUDA devices are looked for only if asked for, and never initialised."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return Hardware(
        usable_cores(), free_memory(), visible_devices() if cuda else (), int(threads) if threads.isdigit() else None
    )


def default_launcher() -> str:
    """`pool` where the hardware is worth more than one worker, else `basic`."""
    return "pool" if usable_cores() > 1 or len(visible_devices()) > 1 else "basic"


def usable_cores() -> int:
    """The cores that this process may use, by its affinity and the quota of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [int(quota) / int(period) for quota, period in limits("cpu.max") if quota != "max"]
    return max(1, int(min([affinity, *quotas])))


def free_memory() -> int | None:
    """The bytes that are free here, at most what the control groups allow; None where that cannot be known."""
    found = [int(limit) for (limit,) in limits("memory.max") if limit != "max"]
    with suppress(OSError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    return min(found, default=None)


def visible_devices() -> tuple[str, ...]:
    """The CUDA devices that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    import torch

    return names(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))  # counting makes no context


def names(count: int, visible: str | None) -> tuple[str, ...]:
    """The names of so many devices, where CUDA_VISIBLE_DEVICES is `visible`: numbers, or UUIDs."""
    if visible is None:
        return tuple(map(str, range(count)))
    return tuple(name.strip() for name in visible.split(",")[:count])


def limits(name: str, root: Path = CGROUPS, own: str | None = None) -> Iterator[list[str]]:
    """What the file `name` holds in this process's control group (version 2) and in those around it."""
    if own is None:
        try:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
        except OSError:
            return
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    place = root / own.strip("/")
    for directory in (place, *place.parents):
        if directory.is_relative_to(root):
            with suppress(OSError):
                yield (directory / name).read_text().split()
