#!/usr/bin/env python3
"""What submitit uses of Slurm, on this machine: each job starts at once. Called by the name of one of its commands."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STATES = HERE / "states"


def sbatch(script):
    STATES.mkdir(exist_ok=True)
    number = str(100 + len(list(HERE.glob("*.sbatch"))))
    text = Path(script).read_text()
    (HERE / f"{number}.sbatch").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for index in range(int(array[1]) + 1) if array else [None]:
        job = number if index is None else f"{number}_{index}"
        own = {} if index is None else {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
        env = {**os.environ, **own, "SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
        words = [sys.executable, HERE / "slurm.py", "batch", job, HERE / f"{number}.sbatch"]
        subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    print(f"Submitted batch job {number}")


def batch(job, script):
    state, again = STATES / job, True
    while again:
        process = subprocess.Popen(["bash", script], start_new_session=True)
        state.write_text(f"RUNNING {process.pid}")
        code = process.wait()
        again = state.read_text() == "REQUEUED"
    state.write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*words):
    words = list(words)
    names = {"%A": os.environ.get("SLURM_ARRAY_JOB_ID", ""), "%a": os.environ.get("SLURM_ARRAY_TASK_ID", "")}
    names |= {"%j": os.environ["SLURM_JOB_ID"], "%t": "0"}
    for option, descriptor in (("--output", 1), ("--error", 2)):
        path = re.sub("%[Aajt]", lambda found: names[found[0]], words[words.index(option) + 1])
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    command = words[words.index("--error") + 2 :]
    os.execvp(command[0], command)


def sacct(*words):
    print("JobID|State|NodeList")
    for state in STATES.iterdir():
        print(f"{state.name}|{state.read_text().split()[0]}|here")


def scancel(job):
    found = (STATES / job).read_text().split()
    if len(found) == 2:
        os.killpg(int(found[1]), signal.SIGTERM)


def scontrol(verb, job):
    assert verb == "requeue"
    (STATES / job).write_text("REQUEUED")


name = Path(sys.argv[0]).name
if __name__ == "__main__" and name == "slurm.py":
    batch(*sys.argv[2:])
elif __name__ == "__main__":
    globals()[name](*sys.argv[1:])
