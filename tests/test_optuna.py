"""Searches: what is tried goes by what became of earlier trials, and one that was stopped goes on as it would have."""

import json
import math
import re
import shlex
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from processes import Process

from lossbench.errors import ConfigError
from lossbench.sweep.job import Job
from lossbench.sweep.search.best import front, ranked, status
from lossbench.sweep.search.objective import Objective
from lossbench.sweep.search.space import space
from lossbench.sweep.search.study import Study
from lossbench.sweep.search.trials import FILE, Search

LOSS = Objective("val/loss", "min")
RATE = ["x=tag(log,interval(1e-4,1))"]
GP = pytest.param("gp", marks=pytest.mark.slow)  # seconds for a few trials
PLANE = ["x=tag(log,interval(1e-4,1))", "y=interval(0,1)"]


class Composer:
    """Jobs that are known by their words."""

    def job(self, words, name, phase=""):
        if "x=refused" in words:
            raise ConfigError("x=refused is refused")
        config = OmegaConf.create({"trainer": {"eval_every": "epoch"}})
        return Job(name, tuple(words), config, ",".join(words), {}, {}, phase)


def search(where, words=RATE, *, trials=12, sampler="random", pruner=None, goals=(LOSS,), seed=0, retry=False):
    dimensions, fixed = space(words)
    asked = Search(dimensions, list(goals), trials, sampler, pruner, seed)
    return Study(Composer(), asked, fixed, [], Path(where), retry=retry)


def settings(job):
    """What a job sets, numbers as such."""
    pairs = (word.split("=", 1) for word in job.overrides)
    return {key: float(text) if re.match(r"-?\d", text) else text for key, text in pairs}


def completed(job, **metrics):
    return {"status": "completed", "metrics": {"val": metrics}, "directory": f"sweep/{job.name}"}


def run(study, result, most=math.inf):
    """Hand out jobs one by one as a launcher does; the jobs."""
    jobs = []
    while len(jobs) < most and (job := study.next()) is not None:
        jobs.append(job)
        row = result(job)
        study.ended(job, row if isinstance(row, dict) else completed(job, loss=row))
    return jobs


def valley(job):
    """A loss that is lowest at x = 0.01."""
    return abs(math.log10(settings(job)["x"]) + 2)


def bowl(job):
    """A loss that is lowest at x = 0.01 and y = 0.7."""
    return valley(job) + abs(settings(job)["y"] - 0.7)


@pytest.mark.slow
def test_tpe_finds_better_settings_than_chance(tmp_path):
    def found(sampler, seed):
        study = search(tmp_path / f"{sampler}{seed}", PLANE, sampler=sampler, trials=30, seed=seed)
        return min(map(bowl, run(study, bowl)))

    best = {sampler: sum(found(sampler, seed) for seed in range(3)) for sampler in ("tpe", "random")}
    assert best["tpe"] < best["random"] / 2


@pytest.mark.parametrize(("direction", "end"), [("min", "x=a"), ("max", "x=b")])
def test_the_best_trial_is_the_one_that_the_direction_says(tmp_path, direction, end):
    study = search(tmp_path, ["x=a,b"], trials=6, goals=[Objective("val/loss", direction)])
    run(study, lambda job: 1.0 if "x=a" in job.overrides else 2.0)
    assert study.trials.settings(ranked(study.trials)[0]) == [end]


@pytest.mark.parametrize("sampler", ["tpe", "random", "sobol", "nsga2", "cmaes", GP])
def test_a_search_that_was_killed_goes_on_as_it_would_have(tmp_path, sampler):
    whole = run(search(tmp_path / "whole", PLANE, sampler=sampler), valley)
    assert len({job.hash for job in whole}) == 12
    killed = search(tmp_path / "killed", PLANE, sampler=sampler)
    before = run(killed, valley, most=4)
    going = killed.next()  # runs, and never ends
    again = search(tmp_path / "killed", PLANE, sampler=sampler)
    after = run(again, valley)
    assert [job.hash for job in after] == [job.hash for job in whole]  # what had ended is handed out for the record
    assert after[:5] == [*before, going]
    assert [trial.state.name for trial in again.trials.all()] == ["COMPLETE"] * 12


def test_trials_run_beside_one_another(tmp_path):
    study = search(tmp_path, sampler="tpe", trials=6)
    going = [study.next() for _ in range(6)]
    assert len({job.hash for job in going}) == 6
    assert study.next() is None
    assert study.exhausted
    for job in reversed(going):
        study.ended(job, completed(job, loss=valley(job)))
    assert [trial.values[0] for trial in study.trials.all()] == [valley(job) for job in going]


def test_the_budget_counts_earlier_trials_and_can_grow(tmp_path):
    first = run(search(tmp_path, trials=4), valley)
    assert run(search(tmp_path, trials=4), valley) == first
    assert len(run(search(tmp_path, trials=6), valley)) == 6
    assert len((Path(tmp_path) / FILE).read_text().splitlines()) > 6


def test_a_trial_equal_to_an_earlier_one_is_told_its_result(tmp_path):
    study = search(tmp_path, ["x=a,b"], trials=8)
    jobs = run(study, lambda job: 1.0 if "x=a" in job.overrides else 2.0)
    assert sorted(job.overrides[0] for job in jobs) == ["x=a", "x=b"]
    told = {(trial.params["x"], trial.values[0]) for trial in study.trials.all()}
    assert told == {("a", 1.0), ("b", 2.0)}
    assert [trial.params["x"] for trial in ranked(study.trials)] == ["a", "b"]
    assert len(study.trials.all()) == 8
    assert study.total == 2


def test_a_trial_equal_to_one_that_runs_waits_for_its_result(tmp_path):
    study = search(tmp_path, ["x=a,b"], trials=8)
    going = [study.next(), study.next()]
    assert study.next() is None
    for job in going:
        study.ended(job, completed(job, loss=3.0))
    assert [trial.values for trial in study.trials.all()] == [[3.0]] * 8


def test_a_diverged_trial_drives_the_search_away(tmp_path):
    study = search(tmp_path, sampler="tpe", trials=40)

    def explodes(job):
        bad = settings(job)["x"] > 1e-2
        return {"status": "diverged", "metrics": {"val": {"loss": 0.0}}, "directory": "d"} if bad else 1.0

    jobs = run(study, explodes)
    high = [settings(job)["x"] > 1e-2 for job in jobs]
    assert sum(high[:10]) >= 3
    assert sum(high[20:]) <= 5  # by chance, half of them
    assert {trial.values[0] for trial in study.trials.all()} == {1.0, math.inf}
    assert status(ranked(study.trials)[0]) == "completed"


def test_a_value_that_is_not_finite_is_the_worst(tmp_path):
    study = search(tmp_path, ["x=a,b,c"], trials=30, goals=[Objective("val/r2", "max")])
    run(
        study,
        lambda job: completed(
            job, **({} if "x=a" in job.overrides else {"r2": math.nan if "x=b" in job.overrides else 0.5})
        ),
    )
    assert {trial.params["x"]: trial.values[0] for trial in study.trials.all()} == {
        "a": -math.inf,
        "b": -math.inf,
        "c": 0.5,
    }


def test_a_failed_trial_counts_and_is_run_again_when_asked(tmp_path):
    def fails(job):
        return {"status": "failed", "error": "e", "directory": "d"} if settings(job)["x"] > 1e-2 else 1.0

    jobs = run(search(tmp_path, trials=8), fails)
    failed = {job.hash for job in jobs if settings(job)["x"] > 1e-2}
    assert 0 < len(failed) < len(jobs) == 8
    again = search(tmp_path, trials=8, retry=True)
    assert {job.hash for job in run(again, valley)} == {job.hash for job in jobs}
    states = [trial.state.name for trial in again.trials.all()]
    assert (states.count("COMPLETE"), states.count("FAIL")) == (8, len(failed))
    assert [status(trial) for trial in ranked(again.trials)] == ["completed"] * 8
    once_more = search(tmp_path, trials=8, retry=True)
    assert len(run(once_more, valley)) == 8
    assert len(once_more.trials.all()) == len(states)
    more = search(tmp_path, trials=10)  # those that were run again were beyond the budget
    assert len(run(more, valley)) == more.total == 10


def test_a_trial_that_fails_again_counts_once(tmp_path):
    def fails(job):
        return {"status": "failed", "error": "e", "directory": "d"}

    for retry in (False, True, True):
        study = search(tmp_path, ["x=a,b"], trials=4, retry=retry)
        assert len(run(study, fails)) == 2
    assert len(run(search(tmp_path, ["x=a,b"], trials=4), fails)) == 2


def test_settings_that_no_job_can_have_are_left_out(tmp_path, capsys):
    study = search(tmp_path, ["x=refused,b"], trials=6)
    jobs = run(study, lambda job: 1.0)
    assert [job.overrides for job in jobs] == [("x=b",)]
    assert {status(trial) for trial in study.trials.all()} == {"refused", "completed"}
    assert study.total == 1
    assert "is left out: x=refused is refused" in capsys.readouterr().out
    assert len(run(search(tmp_path, ["x=refused,b"], trials=6), lambda job: 1.0)) == 1


def test_a_job_that_was_stopped_is_handed_out_again(tmp_path):
    study = search(tmp_path, trials=1)
    job = study.next()
    study.ended(job, {"status": "interrupted", "directory": "d"})
    assert run(search(tmp_path, trials=1), valley) == [job]


@pytest.mark.parametrize("pruner", ["median", "percentile", "halving", "hyperband"])
def test_trials_that_do_badly_end_early(tmp_path, pruner):
    study = search(tmp_path, trials=30, pruner=pruner)
    epochs = {}

    def trained(job):
        for epoch in range(1, 10):  # the last evaluation is the tenth, and a run ends there anyway
            epochs[job.hash] = epoch
            if study.evaluated(job, 10 * epoch, epoch, {"val": {"loss": valley(job)}}):
                return {**completed(job, loss=valley(job)), "reason": "pruned"}
        epochs[job.hash] = 10
        return valley(job)

    jobs = run(study, trained)
    short, full = ([job for job in jobs if (epochs[job.hash] < 10) == early] for early in (True, False))
    assert short
    assert min(map(valley, jobs)) == min(map(valley, full))
    assert sum(map(valley, short)) / len(short) > sum(map(valley, full)) / len(full)
    states = {trial.state.name for trial in study.trials.all() if status(trial) == "pruned"}
    assert states == {"PRUNED"}
    assert [status(trial) for trial in ranked(study.trials)] == ["completed"] * len(full) + ["pruned"] * len(short)


def test_without_a_pruner_no_trial_ends_early(tmp_path):
    study = search(tmp_path, trials=1)
    assert not study.evaluated(study.next(), 1, 1, {"val": {"loss": math.nan}})


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", GP])
def test_two_objectives_have_a_front(tmp_path, sampler):
    goals = [Objective("val/accuracy", "max"), Objective("parameters", "min")]
    study = search(tmp_path, ["x=interval(0,1)", "y=interval(0,1)"], trials=14, sampler=sampler, goals=goals)

    def trade(job):
        x, y = settings(job)["x"], settings(job)["y"]
        ended = {"status": "diverged"} if x > 0.9 else {}
        return {**completed(job, accuracy=x - y / 10), "parameters": 100 * x, **ended}

    run(study, trade)
    ended = [trial for trial in study.trials.all() if status(trial) == "completed"]
    wanted = [
        a
        for a in ended
        if not any(b.values[0] >= a.values[0] and b.values[1] <= a.values[1] and b.values != a.values for b in ended)
    ]
    assert front(study.trials) == sorted(wanted, key=lambda trial: -trial.values[0])
    assert 1 < len(wanted) < 14


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "cmaes"}, "two numbers or more"),
        ({"sampler": "cmaes", "words": PLANE, "goals": [LOSS, Objective("seconds", "min")]}, "one objective"),
        ({"pruner": "median", "goals": [LOSS, Objective("seconds", "min")]}, "goes by one metric"),
        ({"pruner": "median", "goals": [Objective("seconds", "min")]}, "known at the end only"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        search(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other", [{"words": ["x=tag(log,interval(1e-3,1))"]}, {"words": PLANE}, {"goals": [Objective("val/rmse", "min")]}]
)
def test_a_directory_of_another_search_is_refused_and_stays_as_it_is(tmp_path, other):
    run(search(tmp_path, trials=2), valley)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"x=0\.0001 to 1\.0, log|val/loss \(min\)"):
        search(tmp_path, **other)
    assert (tmp_path / FILE).read_bytes() == before
    search(tmp_path, sampler="tpe", trials=5, pruner="median")


def test_a_line_that_was_half_written_is_dropped(tmp_path):
    run(search(tmp_path, trials=3), valley)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    (tmp_path / f"{FILE}.lock").touch()
    again = search(tmp_path, trials=5)
    assert len(run(again, valley)) == 5
    assert len(search(tmp_path, trials=5).trials.all()) == 5


SWEEP = ("train", "-m", "hydra/sweeper=optuna", "hydra/launcher=basic", "trainer.steps=20")
SEARCH = (*SWEEP, "experiment=quadratic")
LR = "optim.lr=tag(log,interval(1e-4,1))"


def summaries():
    found = [json.loads(path.read_text()) for path in Path("outputs/s").glob("*/summary.json")]
    return sorted(found, key=lambda summary: summary["best"]["value"])


def test_a_search_ends_with_its_best_trials_and_a_command_that_trains_the_best(cli):
    code, out, err = cli(*SEARCH, LR, "optim=sgd,adamw", "sweep.trials=4", "sweep.name=s")
    assert (code, err) == (0, "")
    found = summaries()
    assert len(found) == 4
    assert [float(row.split("│")[2]) for row in re.findall(r"│.*completed │", out)] == [
        pytest.approx(summary["best"]["value"], rel=1e-3) for summary in found
    ]
    command = shlex.split(re.search("settings of the best: (.*)", out).group(1))
    assert cli(*command[1:], "name=again")[0] == 0
    (again,) = Path("outputs").glob("*/*-again/summary.json")
    again = json.loads(again.read_text())
    assert (again["config_hash"], again["metrics"]) == (found[0]["config_hash"], found[0]["metrics"])
    code, out, err = cli("train", "-m", "sweep.name=s", "hydra/launcher=basic", "sweep.trials=5")
    assert (code, err, len(summaries())) == (0, "", 5)
    assert "trials: 5 completed; the best:" in out


def test_a_pruned_run_ends_in_order_and_can_go_on(cli):
    words = ("trainer.eval_every=1", "sweep.pruner=halving", "sweep.trials=8", "sweep.sampler=random", "sweep.name=s")
    code, out, err = cli(*SEARCH, "optim.lr=interval(1e-4,0.1)", *words)
    assert (code, err) == (0, "")
    pruned = [summary for summary in summaries() if summary["reason"] == "pruned"]
    assert pruned
    assert all(summary["steps"] < 20 and summary["status"] == "completed" for summary in pruned)
    assert all(set(summary["metrics"]) == {"train", "val", "test"} for summary in pruned)
    assert f"{len(pruned)} pruned" in out
    path = next(path.parent for path in Path("outputs/s").glob("*/summary.json") if '"pruned"' in path.read_text())
    assert cli("train", f"resume={path}")[0] == 0
    assert json.loads((path / "summary.json").read_text())["steps"] == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to search in"),
        ((LR, "sweep.metric=val/rmsee"), "no metric 'rmsee'; did you mean 'rmse'?"),
        ((LR, "sweep.metric=[val/rmse,rmse]"), "names a metric twice"),
        ((LR, "sweep.metric=test/rmse"), "the test split is looked at once"),
        (("optim.lr=interval(-1,1)",), "job optim.lr=-1.0: optim.lr must be greater than 0, got -1.0"),
        (("optim.momentum=interval(0,1)", "optim=sgd,adamw"), "adamw has no option 'momentum'"),
        ((LR, "sweep.trials=2000"), "pass sweep.max_jobs=2000"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_runs(cli, words, said):
    code, _, err = cli(*SEARCH, *words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not Path("outputs").exists()


def test_the_metric_and_its_direction_are_the_tasks(cli):
    goals = ("sweep.metric=[train/r2,parameters]", "sweep.trials=2", "sweep.name=s")
    code, out, err = cli(*SWEEP, "dataset=diabetes", LR, *goals)
    assert (code, err) == (0, "")
    journal = Path("outputs/s", FILE).read_text()
    assert "train/r2 (max)" in journal
    assert "parameters (min)" in journal
    assert "trials: 2 completed; those that no other one beats in every metric:" in out
    code, _, err = cli(*SWEEP, "dataset=diabetes", "loss=mse,gaussian_nll")
    assert code == 2
    assert "jobs are judged by val/rmse (min) or by val/nll (min)" in err
    code, _, err = cli(*SWEEP, "dataset=diabetes", "loss=mse,gaussian_nll", "trainer.direction=max")
    assert "jobs are judged by val/rmse (max) or by val/nll (max)" in err


def test_a_search_with_trials_that_fail_goes_on(cli):
    words = ("trainer.batch_size=64,100000", "trainer.drop_last=true", "sweep.trials=6", "sweep.name=s")
    code, out, err = cli(*SWEEP, *words)
    assert code == 10
    assert "leaves 0 steps" in err
    assert re.search(r"trials: \d completed, \d failed", out)


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_has_each_trial_once(cli):
    words = (*SEARCH, "trainer.eval_every=5", LR, "sweep.trials=8", "sweep.name=s")
    assert cli(*words, "output_root=whole")[0] == 0
    for ended in (2, 5):
        search = Process(*words)
        search.until(lambda ended=ended: len(list(Path("outputs/s").glob("*/summary.json"))) >= ended)
        search.send(signal.SIGKILL)
        assert search.wait() == -signal.SIGKILL
    assert cli("train", "-m", "hydra/launcher=basic", "sweep.name=s")[0] == 0
    found, whole = (dict(map(hash_of, Path(root, "s").glob("*/status.json"))) for root in ("outputs", "whole"))
    assert found == whole
    assert len(set(whole.values())) == 8


def hash_of(file):
    return file.parent.name, json.loads(file.with_name("summary.json").read_text())["config_hash"]


def test_without_optuna_the_command_to_install_it_is_said(cli, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = cli(*SEARCH, LR)
    assert (code, err) == (
        2,
        'lossbench: error: hydra/sweeper=optuna needs Optuna: pip install "lossbench[optuna]"\n',
    )
