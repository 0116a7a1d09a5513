"""`sweep.json`: the jobs of a sweep, each with its directory, by which a later call knows them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossbench.naming import job_name
from lossbench.observe.replacing import replacing
from lossbench.observe.run_dir import read_json
from lossbench.sweep.job import Job, Row, Task


class Ledger:
    """The jobs of the sweep in the directory `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = read_json(path / "sweep.json", {})
        self.jobs: dict[str, dict[str, Any]] = {job["hash"]: job for job in found.get("jobs", [])}

    def register(self, jobs: Sequence[Job]) -> None:
        """Give each job that is new its number and its directory."""
        for job in jobs:
            number = len(self.jobs)
            entry = {"hash": job.hash, "number": number, "phase": job.phase, "directory": job_name(number, job.name)}
            self.jobs.setdefault(job.hash, entry)
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / "sweep.json") as file:
            file.write((json.dumps({"jobs": list(self.jobs.values())}, indent=1) + "\n").encode())

    def ended(self, job: Job) -> Row | None:
        """How the job ended, if it did so in a way that need not be tried again."""
        path = self.path / self.jobs[job.hash]["directory"]
        row = read_json(path / "summary.json", {}) or read_json(path / "status.json", {})
        return {**row, "directory": str(path)} if row.get("status") in ("completed", "diverged", "failed") else None

    def task(self, job: Job) -> Task:
        """Where the job is to be run."""
        known = self.jobs[job.hash]
        return Task(known["number"], job, self.path / known["directory"])
