"""What a user sees while a sweep runs."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from lossbench.sweep import screen as module
from lossbench.sweep.screen import Screen
from lossbench.sweep.standing import Standing, duration


def tasks(count, names="loss=focal,seed={}", **settings):
    jobs = [SimpleNamespace(name=names.format(i), hash=str(i), phase="", settings=settings) for i in range(count)]
    return [SimpleNamespace(number=i, job=job) for i, job in enumerate(jobs)]


def row(value, metric="accuracy", direction="max", status="completed", **more):
    best = {"metric": metric, "value": value}
    return {"status": status, "best": best, "directions": {metric: direction}, "seconds": 2.5, **more}


FAILED = {"status": "failed", "error": "out of memory"}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def shown(monkeypatch):
    """Makes a screen of a width; what it printed so far is `text()`, and its table `drawn()`."""

    def make(total, width=120, height=30, terminal=True, alone=True, earlier=0):
        console = Console(
            width=width,
            height=height,
            force_terminal=terminal,
            color_system=None,
            highlight=False,
            file=io.StringIO(),
            _environ={"TERM": "xterm"},
        )
        monkeypatch.setattr(module, "console", console)
        monkeypatch.setattr(sys.modules["lossbench.console"], "console", console)
        made = Screen(SimpleNamespace(total=total), alone=alone, earlier=earlier)
        made.standing.clock = Clock()
        made.text = lambda: console.file.getvalue()

        def drawn():
            with console.capture() as capture:
                console.print(made.table())
            return capture.get().splitlines()

        made.drawn = drawn
        return made

    return make


def test_plain_lines_where_the_output_is_no_terminal(shown):
    first, second, third, fourth = tasks(4)
    with (screen := shown(24, terminal=False)):
        for task in (first, second, third, fourth):
            screen.started(task, "worker 0")
            screen.evaluated(task, 20, 1, {"val": {"accuracy": 0.5}})
        screen.ended(first, row(0.92222), earlier=False)
        screen.ended(second, FAILED, earlier=False)
        screen.ended(third, row(0.3, status="diverged", error="step 3: the loss is nan"), earlier=False)
        screen.ended(fourth, row(0.5, reason="pruned"), earlier=False)
    assert screen.text().splitlines() == [
        "1/24 loss=focal,seed=0: completed; val accuracy 0.9222, 2.5 s",
        "2/24 loss=focal,seed=1: failed; out of memory",
        "3/24 loss=focal,seed=2: diverged; step 3: the loss is nan",
        "4/24 loss=focal,seed=3: pruned; val accuracy 0.5, 2.5 s",
    ]


def test_jobs_of_an_earlier_call_are_counted_and_have_no_lines(shown):
    screen = shown(3, terminal=False)
    first, second, _ = tasks(3)
    screen.ended(first, row(0.9), earlier=True)
    screen.ended(second, row(0.5), earlier=False)
    assert screen.text().splitlines() == ["2/3 loss=focal,seed=1: completed; val accuracy 0.5, 2.5 s"]
    assert screen.drawn() == [
        "1 done, 0 running, 0 failed, 0 diverged, 1 left, 1 from before; time left: not known yet",
        "best so far: val accuracy 0.9, loss=focal,seed=0",
        "starting",
    ]


def test_jobs_that_are_known_to_have_ended_count_from_the_start(shown):
    screen = shown(3, terminal=False, earlier=1)
    first, second, third = tasks(3)
    screen.ended(second, row(0.5), earlier=False)
    screen.ended(first, row(0.9), earlier=True)
    screen.ended(third, row(0.7), earlier=False)
    assert [line.partition(" ")[0] for line in screen.text().splitlines()] == ["2/3", "3/3"]


def test_before_the_first_job_the_table_says_that_it_starts(shown):
    screen = shown(2)
    assert screen.drawn()[1:] == ["starting"]
    screen.started(tasks(1)[0], "worker 0")
    assert "starting" not in screen.drawn()


def test_the_table(shown):
    screen = shown(6)
    for task in tasks(5):
        screen.started(task, f"worker {task.number}")
    screen.standing.clock.now = 30.0
    for task, found in zip(tasks(3), (row(0.5), row(0.75), FAILED), strict=True):
        screen.ended(task, found, earlier=False)
    screen.evaluated(tasks(4)[3], 40, 2, {"train": {"accuracy": 1.0}, "val": {"loss": 0.1, "accuracy": 0.6}})
    screen.standing.clock.now = 40.0
    lines = screen.drawn()
    assert lines[0] == "2 done, 2 running, 1 failed, 0 diverged, 1 left; time left: about 6 s"  # 30 s, 5 workers
    assert lines[1] == "best so far: val accuracy 0.75, loss=focal,seed=1"
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "loss=focal,seed=3 epoch 2, step 40, val accuracy 0.6 worker 3 40 s",
        "loss=focal,seed=4 worker 4 40 s",
    ]


def test_the_metric_of_a_job_that_runs_is_the_one_that_it_goes_by(shown):
    (task,) = tasks(1, **{"trainer.monitor": "nll"})
    screen = shown(1)
    screen.started(task, "")
    screen.evaluated(task, 40, 2, {"val": {"loss": 0.1, "accuracy": 0.6, "nll": 0.3}})
    assert "step 40, val nll 0.3 " in screen.drawn()[1]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(shown, width):
    screen = shown(None, width=width, height=12)
    found = tasks(30, "[red]loss={}" + "x" * 100 + "\x1b[2J\n")
    for task in found:
        screen.started(task, "worker 7, device 3")
        screen.evaluated(task, 10**6, 10**3, {"val": {"accuracy": 0.123456}})
    screen.ended(found[0], row(0.5), earlier=False)
    lines = screen.drawn()
    assert all(len(line) <= width - 3 for line in lines)  # room for ^C
    assert len(lines) <= 12
    assert any("[red]loss=" in line for line in lines)
    assert "\x1b[2J" not in screen.text() + "".join(lines)
    assert lines[-1] == "and 23 more"


def test_a_table_goes_away_however_the_sweep_ends(shown):
    screen = shown(2)
    with pytest.raises(KeyboardInterrupt), screen:
        raise KeyboardInterrupt
    assert screen.text().count("\x1b[?25l") == screen.text().count("\x1b[?25h") == 1  # the cursor hidden, and back


def test_no_table_beside_the_progress_bars_of_runs(shown):
    first, second = tasks(2)
    with (screen := shown(3, alone=False)):
        screen.started(first, "")
        screen.standing.clock.now = 90.0
        screen.ended(first, row(0.9), earlier=False)
        screen.started(second, "")
        screen.standing.clock.now = 120.0
        screen.ended(second, FAILED, earlier=False)
    assert screen.text().splitlines() == [
        "1/3 loss=focal,seed=0: completed; val accuracy 0.9, 2.5 s (time left: about 3 min)",
        "2/3 loss=focal,seed=1: failed; out of memory (time left: about 2 min)",
    ]


@pytest.mark.parametrize(("direction", "wanted"), [("max", 3.0), ("min", 1.0)])
def test_the_best_is_by_the_direction_of_the_metric(direction, wanted):
    standing = Standing()
    values = (2.0, 3.0, 1.0, None, float("nan"))
    for task, value in zip(tasks(5), values, strict=True):
        standing.end(task, row(value, direction=direction), earlier=False)
    standing.end(tasks(6)[5], row(9.0 if direction == "max" else 0.0, status="diverged"), earlier=False)
    assert [(best.metric, best.value) for best in standing.best.values()] == [("accuracy", wanted)]


def test_time_left_is_not_known_without_a_total_or_a_job_that_ended():
    standing = Standing(clock := Clock())
    for task in tasks(2):
        standing.begin(task, "")
    assert standing.seconds_left(10) is None
    clock.now = 10.0
    standing.end(tasks(1)[0], row(0.5), earlier=False)
    assert standing.seconds_left(None) is None
    assert standing.seconds_left(10) == 40  # 8 wait, and the one that runs is due; two at a time, 10 s each


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59.0, "59 s"), (60, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
