"""What a search takes from Optuna: its samplers and pruners, and a file that holds its trials."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import optuna
from optuna import pruners, samplers
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from lossbench.errors import ConfigError
from lossbench.seeds import derive
from lossbench.sweep.search.space import Dimension

_PRUNERS: dict[str, type[pruners.BasePruner]] = {
    "median": pruners.MedianPruner,
    "halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
}
WORST_QUARTER = 75.0  # percentile: trials in the worst quarter end


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna says nothing: neither its log nor that much of it is experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        yield


def make_sampler(name: str, seed: int, trial: int) -> samplers.BaseSampler:
    """The sampler for one trial: what it draws depends on the seed and on the trial's number alone, and so a search
    that was interrupted goes on as it would have.

    TPE: Bergstra et al. 2011, told the worst of trials that run (the constant liar, Ginsbourger et al. 2010). GP:
    log expected improvement. CMA-ES: Hansen and Ostermeier 2001. NSGA-II: Deb et al. 2002. Sobol: scrambled (Owen
    1998).
    """
    drawn = derive(seed, "trial", trial) % 2**32
    if name == "tpe":
        return samplers.TPESampler(seed=drawn, constant_liar=True)
    if name == "gp":
        return samplers.GPSampler(seed=drawn)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=drawn)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=drawn)
    if name == "sobol":
        return samplers.QMCSampler(scramble=True, seed=derive(seed, "sobol") % 2**32)  # one sequence for all trials
    return samplers.RandomSampler(seed=drawn)


def check_sampler(name: str, space: Sequence[Dimension], objectives: int) -> None:
    """Refuse what the sampler cannot do.

    Raises:
        ConfigError: CMA-ES with fewer than two numbers or several objectives.
    """
    if name != "cmaes":
        return
    if find_spec("cmaes") is None:
        raise ConfigError('sweep.sampler=cmaes needs the package cmaes: pip install "lossbench[optuna]"')
    if sum(dimension.kind != "choice" for dimension in space) < 2:
        raise ConfigError("sweep.sampler=cmaes searches over two numbers or more; take sweep.sampler=tpe")
    if objectives > 1:
        raise ConfigError("sweep.sampler=cmaes has one objective; take sweep.sampler=nsga2")


def make_pruner(name: str | None) -> pruners.BasePruner:
    """Which trials end early.

    `median` and `percentile` (the worst quarter): by the others' values at the same evaluation, from the sixth trial
    on. `halving`: Li et al. 2020 (asynchronous successive halving). `hyperband`: Li et al. 2018.
    """
    if name is None:
        return pruners.NopPruner()
    return pruners.PercentilePruner(WORST_QUARTER) if name == "percentile" else _PRUNERS[name]()


def open_storage(path: Path) -> JournalStorage:
    """The trials in a file. What a killed process left half-done is cleared away: a sweep has one process."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole[0]) + len(whole[1]))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
