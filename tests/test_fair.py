"""Fair sweeps: equal budgets, choices by validation, fresh seeds, and what they refuse."""

import itertools
import json
import math
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from processes import Process

from lossbench.errors import ConfigError
from lossbench.observe.run_dir import read_json
from lossbench.sweep.expand import options_loader
from lossbench.sweep.fair.fair import Fair, Tuned, score
from lossbench.sweep.fair.protocol import Protocol, read_protocol
from lossbench.sweep.fair.report import report
from lossbench.sweep.fair.searched import Searched
from lossbench.sweep.fair.tuning import Arm, as_typed, compose_arms, drawn, unit_points
from lossbench.sweep.job import Job, Listed
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.search.objective import Objective
from lossbench.sweep.search.space import Dimension, dimension

FAIR = ("train", "-m", "hydra/sweeper=fair", "hydra/launcher=basic", "sweep.name=s")
BOWL = ("experiment=quadratic", "trainer.steps=2", "trainer.eval_every=1", "dataset.split.val=0.3")
RMSE = Objective("val/rmse", "min")


def entries(phase):
    """The jobs of a phase in the order of their numbers, each with its summary."""
    found = sorted(json.loads(Path("outputs/s/sweep.json").read_text())["jobs"], key=lambda job: job["number"])
    wanted = [job for job in found if job["phase"] == phase]
    return [(job, json.loads((Path("outputs/s") / job["directory"] / "summary.json").read_text())) for job in wanted]


def settings(phase, *keys):
    return [tuple(summary["settings"].get(key) for key in keys) for _, summary in entries(phase)]


def ended():
    """When each run that ended wrote its summary."""
    found = Path("outputs/s").glob("*/status.json")
    paths = [path.parent / "summary.json" for path in found if read_json(path, {}).get("status") == "completed"]
    return {path: path.stat().st_mtime_ns for path in paths}


class Words:
    """In place of a composer: takes any words, but for numbers below 0."""

    def job(self, words, name, phase=""):
        values = dict(word.split("=", 1) for word in words)
        numbers = {key: float(value) for key, value in values.items() if key != "arm"}
        if min(numbers.values(), default=0) < 0:
            raise ConfigError("it must be at least 0")
        return Job(name, tuple(words), None, name, {"seed": 0, "lr": 1.0} | numbers, {}, phase)


def arm(name, *values, space=()):
    """An arm with its default and a trial for each value of `lr`."""
    composer = Words()
    default = composer.job([f"arm={name}"], f"{name} default", "tune")
    trials = [composer.job([f"arm={name}", f"lr={value}"], f"{name} lr={value}", "tune") for value in values]
    return Tuned(Arm(name, default, tuple(space), frozenset()), Listed([default, *trials]))


def fair(*arms, seeds=(1, 2)):
    return Fair(arms, seeds, RMSE, max(arm.trials.total for arm in arms), Words())


def row(value, *, status="completed", **more):
    metrics = {"val": {"rmse": value}, "test": {"rmse": -value}}
    return {"status": status, "metrics": metrics, "best": {"metric": "rmse", "value": value}, **more}


def handed(source, outcome):
    """All jobs of a source, run one by one."""
    found = []
    while (job := source.next()) is not None:
        found.append(job)
        source.ended(job, outcome(job))
    return found


class TestCommand:
    def test_each_arm_has_as_many_trials_at_the_same_points_and_its_best_is_rerun_on_fresh_seeds(self, cli):
        words = ("loss=mse,huber", "sweep.trials=3", "sweep.seeds=[4]", "sweep.metric=val/rmse")
        code, out, err = cli(*FAIR, *BOWL, *words, "optim.lr=tag(log,interval(0.001,1))", "loss.delta=interval(0.5,3)")
        assert (code, err) == (0, "")
        assert out.splitlines()[0] == (
            "2 arms x 3 trials + 2 x 1 final run = 8 jobs; 1 seed is too few to find 2 arms equal; 6 would do"
        )
        facts = read_json(Path("outputs/s/sweep.json"), {})
        assert (facts["arms"], facts["metric"]) == (["loss"], "test/rmse")
        tuned = settings("tune", "loss", "optim.lr", "loss.delta", "seed")
        mse, huber = ([values for values in tuned if values[0] == loss] for loss in ("mse", "huber"))
        assert len(mse) == len(huber) == 3
        assert [values[1] for values in mse] == [values[1] for values in huber]
        assert mse[0] == ("mse", 0.1, None, 0)  # the preset's own rate
        assert huber[0] == ("huber", 0.1, 1.0, 0)
        assert {values[2] for values in mse} == {None}
        assert len({values[2] for values in huber}) == 3
        names = [job["name"] for job, _ in entries("tune")]
        assert names[:3] == ["tune-mse", "tune-huber", f"tune-mse,optim.lr={mse[1][1]}"]
        assert sorted(job["name"] for job, _ in entries("final")) == ["final-huber,seed=4", "final-mse,seed=4"]
        for loss in ("mse", "huber"):
            trials = [summary for _, summary in entries("tune") if summary["settings"]["loss"] == loss]
            best = min(trials, key=lambda summary: summary["metrics"]["val"]["rmse"])
            rerun = [summary for _, summary in entries("final") if summary["settings"]["loss"] == loss]
            for key in ("optim.lr", "loss.delta"):
                assert {summary["settings"].get(key) for summary in rerun} == {best["settings"].get(key)}
        assert "test rmse" in out
        assert Path("outputs/s/tuning.txt").read_text() in out

    def test_called_again_it_runs_nothing_twice_and_more_trials_go_on_from_fewer(self, cli):
        words = (*FAIR, *BOWL, "optim=sgd", "sweep.seeds=1")
        assert cli(*words, "sweep.trials=1")[0] == 0
        before = ended()
        assert len(before) == 2
        first, final = settings("tune", "optim", "optim.lr"), settings("final", "optim", "optim.lr")
        assert cli(*words, "sweep.trials=2")[0] == 0
        assert settings("tune", "optim", "optim.lr")[:1] == first
        assert len(entries("tune")) == 2
        assert len(entries("final")) == 1  # the former one does not count
        assert settings("final", "optim", "optim.lr") != final
        jobs = ended()
        assert jobs.items() > before.items()
        assert cli("train", "-m", "sweep.name=s")[0] == 0
        assert ended() == jobs

    def test_an_arm_that_diverges_throughout_is_rerun_with_its_default_and_counts(self, cli):
        words = ("optim=sgd", "optim.lr=1e30", "sweep.trials=2", "sweep.seeds=1")
        code, out, _ = cli(*FAIR, *BOWL, *words)
        assert code == 0  # a diverged run is a result
        assert "nothing is swept, so there is one arm; 1 arm x 2 trials + 1 x 1 final run = 3 jobs" in out
        assert "no trial gave a result (2 trials, 2 diverged); its default setting was rerun all the same" in out
        ((_, final),) = entries("final")
        assert (final["status"], final["settings"]["optim.lr"]) == ("diverged", 1e30)
        assert "1 run diverged" in out or "1 diverged" in out

    def test_all_that_can_be_known_is_refused_before_the_first_job(self, cli):
        refused = {
            ("optim=momentum", "sweep.tune=optim.momentum"): "write another, 'optim.momentum=interval(LOW,HIGH)'",
            ("optim.lr=interval(0,1)",): "optim.lr must be greater than 0",
            ("sweep.tune=[optim.lrr,optim.weight_decay]",): "no arm has a key 'optim.lrr'; did you mean 'optim.lr'?",
            ("sweep.metric=train/rmse",): "of the validation split",
        }
        for words, said in refused.items():
            code, _, err = cli(*FAIR, *BOWL, *words)
            assert code == 2
            assert said in err
            assert err.count("\n") == 1
        assert not Path("outputs").exists()

    def test_without_m_it_is_no_sweep(self, cli):
        code, _, err = cli("train", "hydra/sweeper=fair", *BOWL)
        assert (code, err) == (2, "lossbench: error: hydra/sweeper=fair concerns a sweep; add -m\n")

    def test_optuna_proposes_the_trials_of_an_arm(self, cli):
        pytest.importorskip("optuna")
        words = (*FAIR, *BOWL, "sweep.trials=2", "sweep.seeds=1", "sweep.sampler=random")
        code, out, _ = cli(*words)
        assert code == 0
        assert "3/3 final-seed=1" in out
        ((default,), (proposed,)) = settings("tune", "optim.lr")
        assert default == 0.1
        assert 0.1 / 31 < proposed < 0.1 * 31
        assert proposed != default
        assert cli(*words)[0] == 0
        assert settings("tune", "optim.lr") == [(default,), (proposed,)]
        assert len(entries("final")) == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("sweep.tune=[]",), "sweep.tune concerns hydra/sweeper=fair; add it"),
            (("sweep.trials=3",), "sweep.trials concerns hydra/sweeper=optuna or hydra/sweeper=fair; add it"),
            (("hydra/sweeper=optuna", "sweep.seeds=3"), "sweep.seeds concerns hydra/sweeper=fair; leave it away"),
            (("hydra/sweeper=fair", "sweep.pruner=median"), "a fair sweep gives all arms the same; leave it away"),
            (("hydra/sweeper=fair", "sweep.seeds=range(1,4)"), "takes one value or a list, such as [1,2,3], got range"),
            (("hydra/sweeper=fair", "optim.lr=interval(1)"), "looks like 'optim.lr=interval(1e-4,1e-1)'"),
        ],
    )
    def test_what_a_sweeper_does_not_take_is_refused(self, cli, words, said):
        code, _, err = cli("train", "-m", "optim=sgd,adam", *BOWL, *words)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
        assert not Path("outputs").exists()


class TestChoice:
    def test_trials_take_turns_and_final_runs_begin_when_their_arm_is_tuned(self):
        source = fair(arm("a", 2), arm("b", 2, 3))
        names = [job.name for job in handed(source, lambda job: row(1.0))]
        assert names == [
            *("a default", "b default", "a lr=2", "b lr=2", "b lr=3"),
            *("final-a,seed=1", "final-a,seed=2", "final-b,seed=1", "final-b,seed=2"),
        ]
        assert source.exhausted
        assert source.total == 9

    def test_while_trials_run_the_final_runs_wait(self):
        source = fair(arm("a", 2))
        first, second = source.next(), source.next()
        assert source.next() is None
        assert not source.exhausted
        source.ended(second, row(0.5))
        assert source.next() is None
        source.ended(first, row(1.0))
        assert source.next().overrides == ("arm=a", "lr=2", "seed=1")

    def test_validation_decides_and_not_the_test_split(self):
        values = {"a default": 2.0, "a lr=3": 1.0, "a lr=4": 5.0}  # rows have the opposite order on the test split
        jobs = handed(fair(arm("a", 3, 4)), lambda job: row(values.get(job.name, 0.0)))
        assert {job.settings["lr"] for job in jobs if job.phase == "final"} == {3.0}

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_the_earliest_of_equals_is_chosen_in_whatever_order_they_end(self, order):
        source = fair(arm("a", 3, 4))
        jobs = [source.next() for _ in range(3)]
        for i in order:
            source.ended(jobs[i], row([2.0, 1.0, 1.0][i]))
        assert source.next().settings["lr"] == 3.0

    @pytest.mark.parametrize("bad", [row(0.0, status="diverged"), {"status": "failed", "error": "x"}, row(math.nan)])
    def test_what_gave_no_result_is_worse_than_any(self, bad):
        source = fair(arm("a", 3), seeds=(1,))
        jobs = handed(source, lambda job: bad if job.name == "a default" else row(1e9))
        assert jobs[-1].settings["lr"] == 3.0
        assert score(bad, RMSE) is None

    def test_an_arm_without_any_result_is_rerun_with_its_default(self):
        source = fair(arm("a", 3), arm("b", 3), seeds=(1,))
        jobs = handed(source, lambda job: row(1.0) if "arm=b" in job.overrides else row(1.0, status="failed"))
        assert [job.overrides for job in jobs if job.phase == "final"] == [("arm=a", "seed=1"), ("arm=b", "seed=1")]
        said = report(source)
        assert said[1] == "a: no trial gave a result (2 trials, 2 failed); its default setting was rerun all the same"
        assert said[2].startswith("b: the default was best")

    def test_a_larger_metric_is_better_where_the_direction_says_so(self):
        assert score(row(0.25), Objective("val/rmse", "max")) == 0.25
        assert score(row(0.25), RMSE) == -0.25


class Settings(Words):
    """Knows equal settings as equal jobs."""

    def job(self, words, name, phase=""):
        found = super().job(words, name, phase)
        return replace(found, hash=str(sorted(found.settings.items())))


class TestSearched:
    """Arms whose trials Optuna proposes."""

    def searched(self, directory, text, *, budget=8, sampler="random", retry=False):
        composer = Settings()
        default = composer.job(["arm=a"], "tune-a", "tune")
        found = Arm("a", default, (dimension("lr", text),), frozenset())
        return Searched(
            found,
            RMSE,
            budget=budget,
            sampler=sampler,
            seed=0,
            directory=directory,
            retry=retry,
            composer=composer,
        )

    @pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
    def test_trials_equal_to_the_default_are_no_end(self, tmp_path, sampler):
        source = self.searched(tmp_path, "choice(1.0,2.0)", sampler=sampler)
        jobs = handed(source, lambda job: row(job.settings["lr"], directory="d"))
        assert [job.name for job in jobs] == ["tune-a", "tune-a,lr=2.0"]
        assert source.exhausted
        assert source.total == 2
        told = [(trial.params["lr"], trial.values) for trial in source._study.trials.all()]
        assert len(told) == 8
        assert set(map(str, told)) == {"('1.0', [1.0])", "('2.0', [2.0])"}

    def test_the_default_is_a_trial_from_which_the_search_learns(self, tmp_path):
        source = self.searched(tmp_path, "interval(0.5,2)")
        jobs = handed(source, lambda job: row(job.settings["lr"], directory="d"))
        first = source._study.trials.all()[0]
        assert (first.params, first.values) == ({"lr": 1.0}, [1.0])
        assert len(jobs) == len(source._study.trials.all()) == source.total == 8

    def test_a_default_outside_of_what_is_searched_is_part_of_the_budget(self, tmp_path):
        source = self.searched(tmp_path, "interval(2,3)")
        jobs = handed(source, lambda job: row(1.0, directory="d"))
        assert jobs[0].name == "tune-a"
        assert len(jobs) == source.total == 8
        assert len(source._study.trials.all()) == 7

    def test_called_again_it_hands_out_the_same_and_goes_on_with_more(self, tmp_path):
        def run(budget, **more):
            return handed(self.searched(tmp_path, "interval(0.5,2)", budget=budget, **more), outcome)

        def outcome(job):
            return row(1.0, directory="d", status="failed" if job.name == "tune-a" else "completed")

        first = run(4)
        assert run(4) == first
        assert {job.hash for job in run(4, retry=True)} == {job.hash for job in first}
        more = run(6)
        assert more[:4] == first
        assert len(more) == 6


class TestWarnings:
    def warned(self, text, value):
        """What is said of a best value of `lr` in a range."""
        source = fair(arm("a", value, space=[dimension("lr", text)]), seeds=())
        handed(source, lambda job: row(0.0 if job.settings["lr"] == value else 1.0))
        return report(source)[2:]

    @pytest.mark.parametrize(
        ("text", "value", "instead"),
        [
            ("tag(log,interval(1,100))", 99, "tag(log,interval(10,1000))"),
            ("tag(log,interval(1,100))", 1.01, "tag(log,interval(0.1,10))"),
            ("interval(0,4)", 3.9, "interval(2,6)"),
            ("int(interval(1,9))", 9, "int(interval(5,13))"),
            ("interval(1,9)", 1.1, "interval(0,5)"),  # 4 further is refused, and 2: it is below 0
        ],
    )
    def test_at_an_edge_a_range_further_out_is_named(self, text, value, instead):
        (warning,) = self.warned(text, value)
        assert f"lr={value}" in warning
        typed = shlex.split(warning.rpartition("tune over ")[2])[0]
        assert typed == f"lr={instead}"
        moved = dimension("lr", instead)
        assert moved.low < value < moved.high
        assert not moved.at_edge(value)

    @pytest.mark.parametrize(("text", "value"), [("interval(0,4)", 0.0), ("interval(0,4)", 2), ("choice(1,2)", 2)])
    def test_nothing_is_said_within_a_range_or_where_the_option_ends(self, text, value):
        assert self.warned(text, value) == []

    def test_a_default_outside_its_range(self):
        source = fair(arm("a", 30, space=[dimension("lr", "interval(20,40)")]), seeds=())
        handed(source, lambda job: row(job.settings["lr"]))
        assert "lr=1.0 lies outside the range" in report(source)[2]


class TestPoints:
    def test_the_first_points_are_those_of_a_longer_sequence_and_another_seed_has_others(self):
        assert np.array_equal(unit_points(2, 5, 0), unit_points(2, 40, 0)[:5])
        assert not np.array_equal(unit_points(2, 5, 0), unit_points(2, 5, 1))

    @pytest.mark.parametrize("seed", range(5))
    def test_they_lie_evenly(self, seed):
        """Of 2^k points each of 2^k equal intervals has exactly one (Sobol 1967; Owen 1998 for scrambled ones)."""
        assert sorted((16 * unit_points(1, 16, seed)[:, 0]).astype(int)) == list(range(16))

    def test_values_have_few_digits_and_stay_in_their_range(self):
        tall = Dimension("k", "float", 0.99951, 0.99953)
        assert drawn(Dimension("k", "float", 0.0, 1.0), 1 / 3) == 0.333
        assert tall.low <= drawn(tall, 0.5) <= tall.high

    @pytest.mark.parametrize("text", ["tag(log,interval(0.001,1))", "int(interval(2,9))", "range(2,12,3)", "a,b"])
    def test_a_range_is_said_as_it_is_typed(self, text):
        assert dimension("k", as_typed(dimension("k", text)).partition("=")[2]) == dimension("k", text)


class TestProtocol:
    @pytest.mark.parametrize(
        ("words", "options", "said"),
        [
            (["seed=range(0,5)"], {}, "sweep.seeds=8"),
            (["optim.lr=0.1,0.2"], {}, "cannot be tuned as well"),
            (["optim.lr=interval(1,2)"], {"tune": {"optim.lr": "interval(1,3)"}}, "leave one of them away"),
            ([], {"tune": ["seed"]}, "seed is nothing to tune"),
            ([], {"tune": 3}, "must be keys, or a mapping"),
            ([], {"tune": {"optim.lr": 3}}, "a range in quotes"),
            ([], {"seeds": []}, "a number or different seeds"),
            ([], {"seeds": [1, 1]}, "a number or different seeds"),
            ([], {"seeds": 0}, "at least 1"),
            ([], {"seeds": [-1]}, "[0, 4294967295]"),
            ([], {"pruner": "median"}, "sweep.pruner"),
            (["loss=a,b"], {"max_jobs": 5}, "2 arms x 8 trials + 2 x 8 final runs = 32 jobs (limit 5); pass sweep.max"),
        ],
    )
    def test_what_is_not_fair_is_refused(self, words, options, said):
        with pytest.raises(ConfigError) as refused:
            read_protocol(words, SweepOptions(**options), options_loader([]))
        assert said in str(refused.value)

    @pytest.mark.parametrize(
        ("words", "tune", "keys"),
        [
            ([], None, {"optim.lr": False}),
            ([], "loss.gamma", {"loss.gamma": False}),
            (["loss.gamma=interval(0,5)"], None, {"optim.lr": False, "loss.gamma": True}),
            (["optim.lr=interval(0,5)"], ["optim.lr"], {"optim.lr": True}),
            ([], {"optim.lr": None, "loss.gamma": "interval(0, 5)"}, {"optim.lr": False, "loss.gamma": True}),
            ([], [], {}),
        ],
    )
    def test_what_is_tuned_and_which_of_it_has_a_range(self, words, tune, keys):
        protocol = read_protocol(["loss=a,b", *words], SweepOptions(tune=tune), options_loader([]))
        assert {key: values is not None for key, values in protocol.tuned.items()} == keys
        assert protocol.arms == [["loss=a"], ["loss=b"]]

    @pytest.mark.parametrize(
        ("arms", "seeds", "said"),
        [
            ("a", 1, ""),
            ("a,b", 1, "1 seed is too few to find 2 arms equal; 6 would do"),
            ("a,b,c", 5, "5 seeds are too few to find 3 arms equal; 7 would do"),
            ("a,b,c", [3, 4, 5, 6, 7, 8, 9], ""),
            ("a,b,c,d", 8, ""),
        ],
    )
    def test_seeds_too_few_for_the_number_of_arms(self, arms, seeds, said):
        """n seeds reach p = 2 / 2^n in Wilcoxon's test, Holm's correction multiplies it by the number of pairs."""
        found = read_protocol([f"loss={arms}"], SweepOptions(seeds=seeds), options_loader([]))
        assert found.too_few == said

    def test_arms_are_named_as_on_the_leaderboard(self):
        composer = Words()
        words = [["arm=a", f"lr={lr}", f"wd={wd}"] for lr in ("1e-2", "2") for wd in ("0",)]
        protocol = Protocol([*words], ("lr", "wd"), {}, 1, 1, "sobol")
        assert [arm.name for arm in compose_arms(protocol, composer)] == ["lr=0.01", "lr=2"]

    def test_fresh_seeds(self):
        def seeds(given, tuning):
            return read_protocol([], SweepOptions(seeds=given), options_loader([])).fresh_seeds(tuning)

        assert seeds(3, 7) == (8, 9, 10)
        assert seeds([5, 3], 7) == (5, 3)
        with pytest.raises(ConfigError, match="4294967295"):
            seeds(3, 4294967294)


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_ends_with_every_job_once_and_the_same_choice(cli):
    words = (*FAIR, *BOWL, "optim=sgd,adam", "sweep.trials=3", "sweep.seeds=2")
    assert cli(*words)[0] == 0
    wanted = [(job["name"], summary["metrics"]) for phase in ("tune", "final") for job, summary in entries(phase)]
    Path("outputs").rename("whole")
    kept = {}
    for number in (1, 4, 6, 8):
        killed = Process(*words)
        assert killed.until(lambda n=number: len(ended()) >= n)
        killed.send(signal.SIGKILL)
        killed.wait()
        assert ended().items() >= kept.items()
        kept = ended()
    last = Process("train", "-m", "sweep.name=s", "hydra/launcher=basic")
    assert last.wait() == 0, last.err.read_text()
    assert [
        (job["name"], summary["metrics"]) for phase in ("tune", "final") for job, summary in entries(phase)
    ] == wanted
    assert ended().items() >= kept.items()
    assert len(ended()) == 10
