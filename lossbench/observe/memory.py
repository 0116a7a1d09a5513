"""The most memory that a run took."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


class PeakMemory:
    """Counts from when it is made, so that what earlier runs of the process took is left out.

    On CUDA: what torch allocated on the device. On the CPU: the resident memory of the whole process, with the
    interpreter and its libraries, which only Linux tells.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.known = True
        else:
            self.known = _reset_peak()

    def bytes(self) -> int | None:
        """The peak so far; None where it cannot be known."""
        if not self.known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        lines = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024


def _reset_peak() -> bool:
    """Let the process's peak be what it has now; False where the system cannot."""
    with suppress(AttributeError, OSError):  # of the GNU C library
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back: it is not this run's
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True
