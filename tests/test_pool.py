"""The pool of workers: what a job may do to its process, what a signal to the parent does, and what each may use."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from devices import DEVICES
from processes import Process

from lossbench.errors import ConfigError, ResourceError
from lossbench.sweep import session
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Listed
from lossbench.sweep.pool import hardware, reset, worker
from lossbench.sweep.pool.hardware import Hardware, limits, names
from lossbench.sweep.pool.slots import PoolOptions, refuse_numbered, slots

CODE = """
import collections, ctypes, gc, glob, json, logging, os, random, resource, signal, socket, sys, threading, time
import warnings
import numpy as np
import torch
from hydra import initialize_config_dir
from omegaconf import OmegaConf

steps = collections.Counter()  # modules outlive a job

def chosen(input, target, *, how: str = "plain"):
    steps[how] += torch.is_grad_enabled() and len(target) > 4
    if steps[how] == 3 and how != "plain":
        steps[how] += 1
        globals()[how]()
    noise = random.random() + np.random.random() + torch.rand(()).item()
    return torch.nn.functional.cross_entropy(input, target, reduction="none")

def raises():
    raise ValueError("as asked")

def follows():
    while not glob.glob("outputs/s/*how=plain*/steps.csv"):
        time.sleep(0.01)
    raises()

def exits():
    sys.exit(3)

def leaves():
    os._exit(3)

def segfaults():
    ctypes.string_at(0)

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def hangs():
    while True:
        time.sleep(1)

def stubborn():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print("not listening")
    hangs()

def dead(*_):
    raise RuntimeError("CUDA error: device-side assert triggered")

def cuda():
    print("in worker", os.getpid())
    torch.cuda.is_initialized = lambda: True
    torch.cuda.synchronize = torch.cuda.empty_cache = dead
    dead()

def interrupts():
    raise KeyboardInterrupt

def scribbles():
    for name in os.listdir("/proc/self/fd"):
        try:
            socket.socket(fileno=os.dup(int(name))).send(b"\\0\\0\\0\\4what")
        except OSError:
            continue
    hangs()

def draws():
    while True:
        random.random(), torch.rand(())

def lingers():
    print("in worker", os.getpid())
    threading.Thread(target=draws, daemon=True).start()

def memory():
    print("in worker", os.getpid())
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

def prints():
    print("from Python")
    os.system("echo from a child; echo and its errors >&2")

def shows():
    steps.clear()  # later, and in the next job, again
    started = time.time()
    time.sleep(0.3)
    found = [os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), started, time.time()]
    with open("leases.jsonl", "a") as file:
        file.write(json.dumps(found) + "\\n")

def disturbs():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    torch.autograd.set_detect_anomaly(True)
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    np.seterr(all="raise")
    warnings.simplefilter("error")
    logging.basicConfig(filename="all.log", level=1)
    logging.getLogger("lossbench").setLevel(logging.ERROR)
    logging.disable()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    os.environ["LEFT"] = "behind"
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    sys.argv.append("more")
    sys.path.clear()
    sys.stdout = None
    torch.autocast("cpu", torch.bfloat16).__enter__()
    torch.nn.modules.module.register_module_forward_hook(lambda module, given, output: 2 * output)
    sys.modules["torch.optim.optimizer"].register_optimizer_step_pre_hook(lambda *_: torch.rand(()) and None)
    signal.setitimer(signal.ITIMER_PROF, 0.1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    os.umask(0o777)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(1)
    initialize_config_dir(os.getcwd(), version_base="1.2").__enter__()
    OmegaConf.register_new_resolver("lossbench_name", lambda *_: "wrong", replace=True)
    OmegaConf.register_new_resolver("mine", lambda: 1)
    gc.disable()
    raise ValueError("the process is not what it was")
"""
POOL = ("hydra/launcher=pool", "hydra.launcher.n_workers=1", "sweep.name=s")
SHORT = ("trainer.epochs=2", "dataset.subset=100", "trainer.batch_size=16", "trainer.checkpoint.every=null")
LONG = ("trainer.epochs=100000", "dataset.subset=100")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Starts a sweep over what the user's own loss does, in a process of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_pool.py").write_text(CODE)
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "chosen.yaml").write_text("_target_: mine_pool.chosen\nhow: plain\n")
    started = []

    def start(*how, words=SHORT):
        asked = () if not how else (f"loss.how={','.join(how)}",)
        words = ("--config-dir", "mine", "loss=chosen", *asked, *POOL, *words)
        started.append(Process("train", "-m", *words))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def status(how):
    (found,) = Path("outputs/s").glob(f"*how={how}*/status.json")
    return json.loads(found.read_text())


def directory(how):
    (found,) = Path("outputs/s").glob(f"*how={how}*")
    return found


def children(pid):
    """The workers that this process has started, once they are no copies of it any more."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid and "spawn_main" in (path.parent / "cmdline").read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(reached, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(pids):
    """Whether none of these runs; one that has ended and that nobody has asked for its code does not."""

    def state(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    return all(state(pid) in ("gone", "Z", "X") for pid in pids)


def test_a_job_that_breaks_its_process_is_one_failed_row_and_touches_no_other(jobs, cli, monkeypatch):
    monkeypatch.setattr(Listed, "evaluated", lambda self, job, *_: "prints" in job.name)
    process = jobs("disturbs", "plain", "exits", "prints", "segfaults", "raises", "interrupts")
    assert process.wait() == 10
    error = process.err.read_text()
    assert "Traceback" not in error
    assert "leaked" not in error
    assert "the process is not what it was" in status("disturbs")["error"]
    assert status("exits")["error"].endswith("3")
    assert status("segfaults")["error"].startswith("killed by SIGSEGV (segmentation fault)")
    assert "mine_pool.py" in (directory("segfaults") / "run.log").read_text()  # where it was
    assert "Traceback" in (directory("raises") / "run.log").read_text()
    assert status("interrupts")["error"] == "stopped by KeyboardInterrupt"  # and nothing to go on from
    for how in ("disturbs", "exits", "segfaults", "raises", "interrupts"):
        found = status(how)
        assert found["status"] == "failed"
        assert len(found["config_hash"]) == 64
        assert found["settings"]["loss.how"] == how
        assert found["error"][:20] in process.out.read_text()

    log = (directory("prints") / "run.log").read_text().splitlines()
    assert log == ["from Python", "from a child", "and its errors"]
    assert json.loads((directory("prints") / "summary.json").read_text())["epochs"] == 1  # it was told to end
    assert not (directory("plain") / "run.log").exists()
    assert all(path.is_file() or path.name[0].isdigit() for path in Path("outputs/s").iterdir())  # no logs of workers
    assert stat.S_IMODE((directory("plain") / "status.json").stat().st_mode) & 0o400  # as the user's umask has it

    after = directory("plain")
    code, _, err = cli("train", "--config-dir", "mine", "loss=chosen", *SHORT, "name=alone")
    assert (code, err) == (0, "")
    (alone,) = Path("outputs").glob("*/*-alone")
    for name in ("steps.csv", "evals.csv"):
        assert (after / name).read_bytes() == (alone / name).read_bytes()
    one, other = (json.loads((run / "summary.json").read_text()) for run in (after, alone))
    assert one["metrics"] == other["metrics"]
    assert one["threads"] == other["threads"] == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_hangs_or_has_lost_its_device_is_replaced(jobs, monkeypatch):
    monkeypatch.setattr(worker, "GRACE", 1.0)  # for the parent
    process = jobs(
        *("memory", "cuda", "lingers", "plain", "leaves", "killed", "scribbles", "hangs", "stubborn"),
        words=(*SHORT, "hydra.launcher.timeout=10"),
    )
    assert process.wait(300) == 10
    assert status("leaves")["error"] == "its process left with exit code 3"
    assert status("killed")["error"] == "killed by SIGKILL; out of memory?"
    assert status("scribbles")["error"] == "broke the connection to the sweep"
    assert status("hangs")["error"] == status("stubborn")["error"] == "timed out after 10 s"
    assert {status(how)["status"] for how in ("leaves", "killed", "scribbles", "hangs", "stubborn")} == {"failed"}
    assert status("plain")["status"] == status("lingers")["status"] == "completed"
    assert "out of memory" in status("memory")["error"]
    assert "device-side assert" in status("cuda")["error"]
    memory, cuda, lingers = (status(how)["pid"] for how in ("memory", "cuda", "lingers"))
    assert memory == cuda  # the same worker
    assert len({cuda, lingers, status("plain")["pid"]}) == 3


def refused(*_):
    raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize("name", ["empty_cache", "reset_peak_memory_stats"])
def test_a_process_whose_device_is_lost_is_of_no_more_use(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    with reset.process_kept() as traces:
        pass
    assert not traces.stay
    monkeypatch.setattr(torch.cuda, name, refused)
    with reset.process_kept() as traces:
        pass
    assert traces.stay


def test_a_process_in_which_threads_of_a_job_are_alive_is_of_no_more_use(monkeypatch):
    monkeypatch.setattr(reset, "GRACE", 0.1)
    end, timer = threading.Event(), threading.Timer(60, print)
    with reset.process_kept() as own, ThreadPoolExecutor() as pool:
        threading.Thread(target=end.wait).start()
    with reset.process_kept() as short:
        threading.Thread(target=time.sleep, args=(0.01,)).start()
    with reset.process_kept() as later:
        timer.start()
    pool = ThreadPoolExecutor()
    with reset.process_kept() as idle:
        pool.submit(print).result()
    assert (own.stay, short.stay, later.stay, idle.stay) == (True, False, True, False)
    end.set()
    timer.cancel()
    pool.shutdown()


def test_a_slot_whose_workers_die_before_they_are_ready_is_given_up_and_the_rest_has_failed(
    jobs, tmp_path, monkeypatch
):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("print('no such library')\nimport os\nos._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path / "broken")  # only what is started has not imported it yet
    process = jobs("plain", "raises")
    assert process.wait() == 10
    said = process.out.read_text()
    assert "worker 0 is given up; 3 workers in a row died before they were ready" in said
    assert "left with exit code 9; the last wrote: no such library" in said
    assert {status(how)["status"] for how in ("plain", "raises")} == {"failed"}
    assert "3 workers in a row died" in status("plain")["error"]


def started(process, how="plain"):
    """Wait for the steps of a job; its process and others that the sweep has."""
    assert process.until(lambda: any(Path("outputs/s").glob(f"*{how}*/steps.csv")))
    return children(process.pid)


def one_state():
    (found,) = Path("outputs/s").glob("*/status.json")
    return json.loads(found.read_text())["status"]


def test_workers_leave_with_a_parent_that_is_killed_and_save_first(jobs):
    process = jobs("plain", words=LONG)
    workers = started(process, "")
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(workers) == 1
    wait_until(lambda: gone(workers))
    assert one_state() == "interrupted"


@pytest.mark.slow
def test_ctrl_c_stops_the_sweep_in_order(jobs):
    process = jobs("plain", words=(*LONG, "seed=0,1"))
    workers = started(process, "")
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    assert process.wait() == 130
    assert gone(workers)
    assert one_state() == "interrupted"  # and the second job was not begun
    assert process.err.read_text() == ""


@pytest.mark.slow
def test_sigterm_stops_the_sweep_in_order(jobs, monkeypatch):
    workers, started = [], Feed.started

    def terminate(feed, task, where):
        """SIGTERM to the sweep just when the second job is given to a worker, which has not begun it."""
        started(feed, task, where)
        if task.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Feed, "started", terminate)
    process = jobs("plain", words=(*LONG, "seed=0,1", "hydra.launcher.n_workers=2"))
    assert process.until(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    assert process.wait() == 143
    assert gone(workers)
    assert {json.loads(p.read_text())["status"] for p in Path("outputs/s").glob("*/status.json")} <= {"interrupted"}


@pytest.mark.slow
def test_where_the_sweep_itself_fails_what_runs_saves_its_state(jobs, monkeypatch):
    def full(feed, task, row):
        assert "as asked" in row["error"]
        raise OSError(errno.ENOSPC, "No space left on device", "sweep.json")

    monkeypatch.setattr(Feed, "ended", full)
    process = jobs("follows", "plain", words=(*LONG, "hydra.launcher.n_workers=2"))
    assert process.until(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    assert process.wait() == 6
    assert "No space left on device" in process.err.read_text()
    assert gone(workers)
    assert status("plain")["status"] == "interrupted"
    assert (directory("plain") / "checkpoints" / "last").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once(jobs):
    process = jobs("stubborn")
    workers = started(process, "")
    wait_until(lambda: (directory("stubborn") / "run.log").exists())
    process.send(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the job
    process.send(signal.SIGINT)
    assert process.wait(10) == 130
    assert gone(workers)


@pytest.mark.slow
def test_ctrl_c_while_workers_start_ends_them(jobs):
    process = jobs("plain", words=LONG)
    assert process.until(lambda: children(process.pid))
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert gone(workers)
    assert process.err.read_text() == ""


@pytest.mark.slow
def test_a_job_that_another_signal_stops_is_gone_on_with_once(jobs):
    process = jobs("plain", words=("trainer.epochs=400", "dataset.subset=100"))
    (worker,) = started(process, "")
    os.kill(worker, signal.SIGUSR2)
    assert process.wait() == 0
    assert one_state() == "completed"
    (log,) = Path("outputs/s").glob("*/run.log")
    assert "resumed after step" in log.read_text()


@pytest.mark.slow
def test_no_two_workers_hold_the_same_device(jobs, monkeypatch):
    """Two devices that are not there: each job says which it was given, and when it had it."""
    monkeypatch.setattr(hardware, "visible_devices", lambda: ("7", "GPU-5"))
    process = jobs("shows", words=(*SHORT, "seed=range(0,6)", "hydra.launcher.n_workers=null"))
    assert process.wait() == 0
    found = [json.loads(line) for line in Path("leases.jsonl").read_text().splitlines()]
    assert {device for device, *_ in found} == {"7", "GPU-5"}
    assert len({pid for _, pid, *_ in found}) == 2
    for device in ("7", "GPU-5"):
        times = sorted((begin, end) for given, _, begin, end in found if given == device)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_descriptors_that_are_closed_are_opened_so_that_no_connection_has_their_numbers():
    code = """
import os
from lossbench.cli import main
main(("--version",))
os._exit(sum(map(os.get_inheritable, (0, 1, 2))))  # an error where one is closed
"""
    for closed in ("<&-", "2>&-", "<&- >&- 2>&-"):
        assert subprocess.run(["sh", "-c", f"\"$0\" -c '{code}' {closed}", sys.executable], check=False).returncode == 3


HERE = Hardware(cores=8, memory=16 << 30, devices=("0", "GPU-5", "3"))


def leases(options, wanted=("auto",), jobs=100, here=HERE):
    return [(slot.device, slot.threads) for slot in slots(wanted, jobs, here, PoolOptions(**options))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("0", 2), ("GPU-5", 2), ("3", 2)]),
        ({"jobs_per_device": 2}, [("0", 1), ("GPU-5", 1), ("3", 1), ("0", 1), ("GPU-5", 1), ("3", 1)]),
        ({"devices": [2, 1]}, [("3", 4), ("GPU-5", 4)]),
        ({"devices": [2, 2], "threads": 3}, [("3", 3)]),
        ({"n_workers": 2}, [("0", 4), ("GPU-5", 4)]),
        ({"n_workers": 9}, [("0", 2), ("GPU-5", 2), ("3", 2)]),
    ],
)
def test_one_lease_for_each_device_or_as_many_as_are_asked_for(options, expected):
    assert leases(options) == expected


@pytest.mark.parametrize(
    ("options", "more", "expected"),
    [
        ({}, {}, [(None, 1)] * 8),
        ({}, {"jobs": 3}, [(None, 2)] * 3),
        ({}, {"jobs": None}, [(None, 1)] * 8),
        ({}, {"here": Hardware(cores=8, memory=5 << 30)}, [(None, 2)] * 3),
        ({}, {"here": Hardware(cores=8, memory=1 << 30)}, [(None, 8)]),
        ({}, {"here": Hardware(cores=8, threads=4)}, [(None, 4)] * 2),
        ({"threads": 3}, {}, [(None, 3)] * 2),
        ({"n_workers": 4}, {"jobs": 2}, [(None, 2)] * 4),
        ({"n_workers": 20}, {}, [(None, 1)] * 20),
    ],
)
def test_without_cuda_cores_and_memory_are_divided(options, more, expected):
    assert leases(options, **{"wanted": ("cpu",), **more}) == expected


def test_jobs_that_may_use_cuda_run_without_it_where_there_is_none():
    assert leases({}, here=Hardware(cores=2)) == [(None, 1)] * 2


def test_a_worker_sees_its_own_device_alone():
    slot = slots(["cuda"], 1, HERE, PoolOptions(devices=[1]))[0]
    assert slot.environment == {"CUDA_VISIBLE_DEVICES": "GPU-5", "OMP_NUM_THREADS": "8"}
    assert slot.name == "worker 0, device GPU-5"


def test_a_device_that_is_not_there_or_has_a_number_is_refused():
    with pytest.raises(ResourceError, match="there is no device 3; this machine has 3 CUDA devices, from 0 on"):
        leases({"devices": [0, 3]})
    with pytest.raises(ConfigError, match=r"hydra.launcher.devices=\[0,1\]"):
        refuse_numbered(["cuda:1", "auto", "cuda:0"])
    refuse_numbered(["cuda", "cpu"])


def test_a_numbered_device_is_refused_before_anything_is_written(cli):
    code, _, err = cli("train", "-m", "hydra/launcher=pool", "seed=0,1", "trainer.device=cuda:1")
    assert code == 2
    assert "hydra.launcher.devices=[1]" in err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.launcher.n_workers=0", "hydra.launcher.n_workers must be"),
        ("hydra.launcher.timeout=soon", "hydra.launcher.timeout must be a number or null"),
        ("hydra.launcher.devices=all", "hydra.launcher.devices must be"),
        ("hydra.launcher.devices=[]", "hydra.launcher.devices names no device"),
        ("+hydra.launcher.job_per_device=2", "did you mean 'jobs_per_device'"),
        ("hydra.launcher.job_per_device=2", "job_per_device"),
    ],
)
def test_wrong_options_are_refused(cli, word, said):
    code, _, err = cli("train", "-m", "hydra/launcher=pool", "seed=0,1", word)
    assert code == 2
    assert said in err
    assert not Path("outputs").exists()


def test_devices_are_named_as_the_parent_sees_them():
    assert names(2, None) == ("0", "1")
    assert names(2, "3,GPU-5") == ("3", "GPU-5")
    assert names(1, "3, -1, 0") == ("3",)
    assert names(0, "") == ()


def test_the_limits_of_control_groups_are_read_up_to_the_root(tmp_path):
    inner = tmp_path / "user" / "job"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "user" / "cpu.max").write_text("150000 100000\n")
    assert list(limits("cpu.max", tmp_path, "/user/job")) == [["max", "100000"], ["150000", "100000"]]
    assert list(limits("memory.max", tmp_path, "/user/job")) == []


@pytest.mark.parametrize(
    ("cores", "devices", "asked", "expected"),
    [
        (2, (), (), ["PoolLauncher"]),
        (1, ("0", "1"), (), ["PoolLauncher"]),
        (1, ("0",), (), ["BasicLauncher"]),
        (2, ("0", "1"), ("hydra/launcher=basic",), ["BasicLauncher"]),
    ],
)
def test_a_sweep_has_the_pool_where_the_hardware_is_worth_more_than_one_worker(
    cli, monkeypatch, cores, devices, asked, expected
):
    chosen = []
    monkeypatch.setattr(session, "drive", lambda launcher, feed: chosen.append(type(launcher).__name__))
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    monkeypatch.setattr(hardware, "visible_devices", lambda: devices)
    monkeypatch.setenv("LOSSBENCH_LAUNCHER", "put back afterwards")
    monkeypatch.delenv("LOSSBENCH_LAUNCHER")
    cli("train", "-m", "seed=0,1", *asked)
    assert chosen == expected


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_small_job_after_a_large_one_has_a_small_peak_of_memory(cli, device):
    widths = "model.hidden=[4000,4000],[8]"
    assert (
        cli(
            "train",
            "-m",
            widths,
            "trainer.steps=1",
            "sweep.name=s",
            f"trainer.device={device}",
            "trainer.checkpoint.every=null",
        )[0]
        == 0
    )
    large, small = (json.loads(p.read_text())["peak_memory"] for p in sorted(Path("outputs/s").glob("*/summary.json")))
    assert large - small > 4000 * 4000 * 4 * 3  # bytes of weights, and of the two moments of Adam
