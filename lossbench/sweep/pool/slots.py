"""The hardware as slots: each has one worker at a time, and no two hold the same share of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from lossbench.errors import ConfigError, ResourceError, plural
from lossbench.sweep.pool.hardware import Hardware

MEMORY = 3 << 29  # bytes that a worker on the CPU may need: 1.5 GiB


@dataclass(frozen=True)
class PoolOptions:
    """`hydra.launcher.*`; conf/hydra/launcher/pool.yaml says what each is."""

    n_workers: Annotated[int | None, "[1, inf)"] = None
    threads: Annotated[int | None, "[1, inf)"] = None
    devices: list[int] | None = None
    jobs_per_device: Annotated[int, "[1, inf)"] = 1
    timeout: Annotated[float | None, "(0, inf)"] = None


@dataclass(frozen=True)
class Slot:
    """A share of the hardware.

    Attributes:
        threads: of torch.
        device: the one CUDA device, as CUDA_VISIBLE_DEVICES names it; None leaves that variable alone.
    """

    number: int
    threads: int
    device: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.number}" + (f", device {self.device}" if self.device is not None else "")

    @property
    def environment(self) -> dict[str, str]:
        """What a worker's environment has beside its parent's, before torch is imported."""
        device = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return {"OMP_NUM_THREADS": str(self.threads), **device}


def slots(wanted: Iterable[str], jobs: int | None, here: Hardware, options: PoolOptions) -> list[Slot]:
    """The slots for a sweep.

    Args:
        wanted: `trainer.device` of its jobs.
        jobs: how many there will be, if that is known.

    Raises:
        ResourceError: a device is asked for that is not there.
    """
    devices = _chosen(here.devices, options.devices) if any(device != "cpu" for device in wanted) else []
    if devices:
        leases = devices * options.jobs_per_device
        count = min(len(leases), options.n_workers or len(leases))
        threads = options.threads or here.threads or max(1, here.cores // count)
        return [Slot(number, threads, device) for number, device in enumerate(leases[:count])]
    count = options.n_workers or _fitting(jobs, here, options.threads or here.threads or 1)
    threads = options.threads or here.threads or max(1, here.cores // count)
    return [Slot(number, threads) for number in range(count)]


def refuse_numbered(wanted: Iterable[str]) -> None:
    """Refuse `trainer.device=cuda:N`: a worker has one device, whatever its number.

    Raises:
        ConfigError: says what to set instead.
    """
    numbers = sorted({device.partition(":")[2] for device in wanted if ":" in device})
    if numbers:
        raise ConfigError(
            f"trainer.device=cuda:{numbers[0]}: the pool gives each job a device of its own; leave it away, and name "
            f"the devices that may be used with hydra.launcher.devices=[{','.join(numbers)}]"
        )


def _chosen(devices: Sequence[str], numbers: Sequence[int] | None) -> list[str]:
    """The devices of these numbers; all if it is not said which."""
    for number in numbers or ():
        if not 0 <= number < len(devices):
            raise ResourceError(
                f"hydra.launcher.devices: there is no device {number}; this machine has "
                f"{plural(len(devices), 'CUDA device')}, from 0 on"
            )
    if numbers is None:
        return list(devices)
    return [devices[number] for number in dict.fromkeys(numbers)]


def _fitting(jobs: int | None, here: Hardware, threads: int) -> int:
    """How many workers the CPU has cores and memory for, and the sweep jobs."""
    bounds = [here.cores // threads]
    if here.memory is not None:
        bounds.append(here.memory // MEMORY)
    if jobs is not None:
        bounds.append(jobs)
    return max(1, min(bounds))
