"""`sweep.json`: the jobs of a sweep, each with its directory, by which a later call knows them again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lossbench.engine.restore import found
from lossbench.naming import job_name
from lossbench.observe.hparams import columns_of, joined_columns, sound_columns
from lossbench.observe.replacing import replacing
from lossbench.observe.run_dir import ended, read_json
from lossbench.saved import FOLDER
from lossbench.sweep.experiment import joined, refuse_changes, values
from lossbench.sweep.job import Job, Row, Source, Task

VERSION = 1

# A job's directory: its name by `naming.job_name`, and for a later attempt which one it is.
_DIRECTORY = re.compile(r"(?P<number>[0-9]+)-(?P<name>[A-Za-z0-9._=,+-]+)(~[0-9]+)?")


class Ledger:
    """The jobs of the sweep in the directory `path`. What became of a job is in the job's own directory.

    A `sweep.json` that is lost or damaged is made again from those.

    Args:
        retry_failed: jobs that failed in an earlier call are run again, each in a new directory.
    """

    def __init__(self, path: Path, *, retry_failed: bool = False) -> None:
        self.path, self.retry_failed = path, retry_failed
        recorded = read_json(path / "sweep.json", {})
        self.facts = recorded if _is_whole(recorded) else _rebuilt(path)
        self.jobs: dict[str, dict[str, Any]] = {job["hash"]: job for job in self.facts.pop("jobs")}
        self._given = {job["directory"]: key for key, job in self.jobs.items()}
        self._numbers = count(1 + max((job["number"] for job in self.jobs.values()), default=-1))
        self._settled: set[str] = set()
        self._ended: dict[tuple[str, str], Row] = {}  # by directory, which from then on stays as it is, and hash

    def plan(self, source: Source, command: Sequence[str], sweeper: str) -> None:
        """Write down what the sweep is about to do.

        Args:
            command: the settings that go on with it.
            sweeper: the choice of `hydra/sweeper`.

        Raises:
            ConfigError: the settings are those of another experiment than before.
        """
        earlier = self.facts["settings"]
        settings = values([{"hydra/sweeper": sweeper, **job.settings} for job in source.known])
        refuse_changes(self.path, earlier, settings)
        self.facts = {
            "version": VERSION,
            "name": self.path.name,
            "started": self.facts.get("started", time.time()),
            "command": list(command),
            "settings": joined(earlier, settings),
            **source.facts,
            "hparams": joined_columns(
                sound_columns(self.facts.get("hparams")), columns_of([job.hparams for job in source.known])
            ),
        }
        for job in self.jobs.values():  # what is chosen this time may be other than before, and is entered anew
            job["phase"] = job.get("phase") and "former"
        if source.listed:
            self._enter(source.known)
        self._write()

    def register(self, jobs: Sequence[Job]) -> None:
        """Give each job that is new its number and its directory."""
        if self._enter(jobs):
            self._write()

    def ended(self, job: Job) -> Row | None:
        """How the job ended, if it did so in a way that need not be tried again."""
        return self._row(job.hash)

    def rows(self, source: Source) -> list[Row]:
        """How those jobs ended that did: of the source's own, or of all that the sweep has had."""
        return [row for key in self._asked(source) if (row := self._row(key)) is not None]

    def left_behind(self, source: Source) -> int:
        """How many jobs of earlier calls have not ended and are none of this call's."""
        return sum(self._row(key) is None for key in self.jobs.keys() - self._asked(source))

    def can_go_on(self, key: str) -> bool:
        """Whether the job of this hash has saved a state to go on from, and not ended."""
        return _can_go_on(self._path(key), key)

    def task(self, job: Job) -> Task:
        """Where the job is to be run."""
        return Task(self.jobs[job.hash]["number"], job, self._path(job.hash))

    def _asked(self, source: Source) -> list[str]:
        """The jobs of the source by their hashes; of one that does not know them yet, all that the sweep has had."""
        return [job.hash for job in source.known] if source.listed else list(self.jobs)

    def _path(self, key: str) -> Path:
        return self.path / str(self.jobs[key]["directory"])

    def _row(self, key: str) -> Row | None:
        return self._ended_in(str(self.jobs[key]["directory"]), key)

    def _ended_in(self, name: str, key: str) -> Row | None:
        if (name, key) not in self._ended and (row := ended(self.path / name, key)):
            self._ended[name, key] = row
        return self._ended.get((name, key))

    def _enter(self, jobs: Sequence[Job]) -> bool:
        """Whether that says anything new."""
        fresh = [job for job in jobs if job.hash not in self._settled]
        self._settled.update(job.hash for job in fresh)
        entries = {job.hash: self._entry(job) for job in fresh}
        is_new = any(self.jobs.get(key) != entry for key, entry in entries.items())
        self.jobs.update(entries)
        return is_new

    def _entry(self, job: Job) -> dict[str, Any]:
        known = self.jobs.get(job.hash)
        number = known["number"] if known else next(self._numbers)
        directory = self._usable(known["directory"] if known else job_name(number, job.name), job.hash)
        self._given[directory] = job.hash
        return {"hash": job.hash, "number": number, "name": job.name, "phase": job.phase, "directory": directory}

    def _usable(self, name: str, job_hash: str) -> str:
        """The directory of that name, or a new one where it holds what must stay as it is."""
        row = self._ended_in(name, job_hash)
        again = row is not None and row["status"] == "failed" and self.retry_failed
        is_its_own = self._given.get(name, job_hash) == job_hash
        if is_its_own and not again and (row is not None or _can_take(self.path / name, job_hash)):
            return name
        first = name.partition("~")[0]  # which no job's name has in it
        others = (f"{first}~{k}" for k in count(2))
        return next(other for other in others if not (other in self._given or (self.path / other).exists()))

    def _write(self) -> None:
        text = json.dumps({**self.facts, "jobs": list(self.jobs.values())}, indent=1, default=str)
        with replacing(self.path / "sweep.json") as file:
            file.write(f"{text}\n".encode())


def _can_take(path: Path, job_hash: str) -> bool:
    """Whether the job can begin in this directory, or go on from a checkpoint there."""
    return not ((path / "status.json").exists() or (path / "config.yaml").exists()) or _can_go_on(path, job_hash)


def _can_go_on(path: Path, job_hash: str) -> bool:
    """Whether the job was stopped or killed in this directory after it had saved its state."""
    status = read_json(path / "status.json", {})
    unfinished = status.get("status") in ("running", "interrupted") and status.get("config_hash") == job_hash
    return unfinished and bool(found(path / FOLDER, "step"))


def _is_whole(recorded: dict[str, Any]) -> bool:
    """Whether what `sweep.json` holds is of its form, and no two jobs have one directory."""
    jobs, settings = recorded.get("jobs"), recorded.get("settings")
    return (
        isinstance(jobs, list)
        and all(map(_is_entry, jobs))
        and len({job["directory"] for job in jobs}) == len(jobs)
        and isinstance(settings, dict)
        and all(isinstance(each, list) for each in settings.values())
    )


def _is_entry(job: Any) -> bool:
    """Whether it is a job's entry, with a directory in the sweep's own."""
    kinds = {"hash": str, "number": int, "directory": str}
    return (
        isinstance(job, dict)
        and all(isinstance(job.get(key), kind) for key, kind in kinds.items())
        and _DIRECTORY.fullmatch(job["directory"]) is not None
    )


def _rebuilt(path: Path) -> dict[str, Any]:
    """What the jobs' directories say of themselves; of several attempts at a job the last one counts."""
    jobs: dict[str, tuple[float, dict[str, Any]]] = {}
    settings = []
    for file in sorted(path.glob("*/status.json")):
        status, directory = read_json(file, {}), _DIRECTORY.fullmatch(file.parent.name)
        key, started, said = status.get("config_hash"), status.get("started", 0.0), status.get("settings", {})
        sound = isinstance(key, str) and isinstance(started, (int, float)) and isinstance(said, dict)
        if directory and sound and started >= jobs.get(key, (0.0,))[0]:
            entry = {"hash": key, "number": int(directory["number"]), "name": directory["name"], "phase": ""}
            jobs[key] = (started, {**entry, "directory": file.parent.name})
            settings.append(said)
    return {"settings": values(settings), "jobs": [entry for _, entry in jobs.values()]}
