"""What the commands take, what their --help says, and their words read: neither torch nor Hydra is imported here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossbench.errors import ConfigError, did_you_mean

_OVERRIDE = re.compile(r"[+~]*[A-Za-z_][\w/]*(\.\w+)*=|~[A-Za-z_]")
_CHECKPOINT = re.compile(r"best|last|averaged|(step|best|averaged)-\d+")
OF_EVALUATE = ("dataset", "trainer.device", "trainer.precision", "trainer.batch_size")  # what `evaluate` can set
_SHORT = {"-cd": "--config-dir"}

_PATHS = """\
PATH is a run's directory or one of its checkpoints. Of a run, --checkpoint takes best (default), last, step-N or,
where trainer.average was on, averaged.
--config-dir DIR names your own YAML files again, where the run was started with some.
"""


@dataclass(frozen=True)
class Usage:
    """What a command takes.

    Attributes:
        text: what --help prints.
        path: whether it takes a PATH, which it then needs.
        several: whether it takes more than one.
        overrides: whether it takes KEY=VALUE words.
        values: its flags that take a value, with the values where they are few.
        needed: those that it cannot do without.
        switches: its flags that take none.
    """

    text: str
    path: bool = True
    several: bool = False
    overrides: bool = False
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """The words of a command line, read."""

    paths: Sequence[str]
    overrides: Sequence[str]
    values: Mapping[str, str]
    switches: Collection[str]

    @property
    def path(self) -> Path:
        return Path(*self.paths)

    @property
    def config_dirs(self) -> list[Path]:
        """The user's own config directories."""
        return [Path(self.values["--config-dir"])] if "--config-dir" in self.values else []


_WEIGHTS: dict[str, Sequence[str]] = {"--checkpoint": ("best", "last", "averaged"), "--config-dir": ()}

USAGES = {
    "check": Usage(
        """\
lossbench check [KEY=VALUE ...]: all that can be known without training, in seconds. Nothing is written.

Composes and checks the config, loads the data, builds everything and tries it on a few examples, as `train` does
before it begins; then says what would be trained. --config-dir DIR adds your own YAML files.

  lossbench check dataset=diabetes loss=huber loss.delta=0.5
""",
        path=False,
        overrides=True,
        values={"--config-dir": ()},
    ),
    "plot": Usage(
        """\
lossbench plot KEY=VALUE ...: how the learning rate would move over a run, and the momentum if it does. No training.

Takes what `train` takes. Values with commas give a curve each, and all of them come in one picture: in the terminal,
and with --output FILE.png or FILE.svg as a file (--force overwrites it). The rates are those that the run would have:
they come from its own schedule. One that follows a metric is drawn as if that never got better.
--by step (default) or epoch is what goes from left to right; --log draws rates on a logarithmic axis. --config-dir DIR
adds your own YAML files.

  lossbench plot scheduler=cosine_restarts trainer.epochs=30
  lossbench plot scheduler=cosine,onecycle,step scheduler.warmup=0.1 --output rates.svg
""",
        path=False,
        overrides=True,
        values={"--output": (), "--by": ("step", "epoch"), "--config-dir": ()},
        switches=("--log", "--force"),
    ),
    "find-lr": Usage(
        """\
lossbench find-lr [KEY=VALUE ...]: a good learning rate, by a range test. Nothing is trained for good.

Takes what `train` takes. Over a few epochs of training steps the rate rises from --start (1e-7) to --stop (10) in
--steps (100), and ends where the loss explodes; schedules stand still meanwhile. The rate that is suggested is that of
the steepest slope of the loss, or a tenth of the rate at which it diverges, whichever is smaller. That is
cautious: a sweep is short, and the best rate of a whole run may be several times higher, up to where it diverges.
optim.lr=auto trains with it. Values with commas, such as optim=sgd,adamw, give a row each, and all come in one picture.
--output FILE.png or FILE.svg draws it (--force overwrites one); --json FILE writes rates, losses and the rest, and
--json - prints them instead. --config-dir DIR adds your own YAML files.

  lossbench find-lr dataset=diabetes loss=huber optim=sgd
  lossbench find-lr optim=sgd,adam,adamw --output rates.png
""",
        path=False,
        overrides=True,
        values={"--start": (), "--stop": (), "--steps": (), "--output": (), "--json": (), "--config-dir": ()},
        switches=("--force",),
    ),
    "evaluate": Usage(
        f"""\
lossbench evaluate PATH [--split NAME] [--json FILE] [KEY=VALUE ...]: the metrics of a trained model.

{_PATHS}
Without settings, of the run's own data: its train, val and test split, or the one that --split names. With
dataset=NAME or dataset.KEY=VALUE, of other data, in one piece, encoded as the training data were; --split all does so
with every row of the run's own, and --split test dataset.path=FILE finds the split in a file that has moved.
trainer.device, trainer.precision and trainer.batch_size can be set as well.
--json FILE writes the metrics there; --json - prints them instead of the table.

  lossbench evaluate outputs/DATE/TIME-NAME
  lossbench evaluate outputs/DATE/TIME-NAME --split test --json -
  lossbench evaluate outputs/DATE/TIME-NAME dataset.path=new.csv
""",
        overrides=True,
        values={**_WEIGHTS, "--split": ("train", "val", "test", "all"), "--json": ()},
    ),
    "predict": Usage(
        f"""\
lossbench predict PATH --input FILE --output FILE: what a trained model says of new rows.

{_PATHS}
The input holds features as the training data had them: a table (.csv, .tsv, .parquet) with the same columns, or an
array (.npy, .npz); --delimiter and --encoding say how to read a CSV file that is unusual. The output, .csv, .parquet
or .npz, has each row's prediction (a class's name, or a number in the target's units) and the classes' probabilities.
--force overwrites it. --device cpu, cuda or cuda:N; default auto.

  lossbench predict outputs/DATE/TIME-NAME --input new.csv --output predictions.csv
""",
        values={
            **_WEIGHTS,
            "--input": (),
            "--output": (),
            "--device": ("auto", "cpu", "cuda"),
            "--delimiter": (),
            "--encoding": (),
        },
        needed=("--input", "--output"),
        switches=("--force",),
    ),
    "export": Usage(
        f"""\
lossbench export PATH [--format torch|onnx] [--output FILE]: a trained model as one file that runs without lossbench.

{_PATHS}
torch (default) is a torch.export program, onnx an ONNX model; both take batches of any size. It is loaded again and
compared with the model before it is kept, as export/model.pt2 or export/model.onnx in the run's directory, or as the
FILE of --output. Its inputs are encoded ones: NAME.data.json beside it (model.data.json, say) says how. --force
overwrites earlier ones.

  lossbench export outputs/DATE/TIME-NAME --format onnx
""",
        values={**_WEIGHTS, "--format": ("torch", "onnx"), "--output": ()},
        switches=("--force",),
    ),
    "repair": Usage(
        """\
lossbench repair PATH: make a run's TensorBoard file again, from its CSV files. PATH is the run's directory.

  lossbench repair outputs/DATE/TIME-NAME
"""
    ),
    "compare": Usage(
        """\
lossbench compare PATH ...: which arm is better, by how much, and whether the difference is real.

PATH is the directory of a sweep, of a run, or of any number of them. Runs are grouped into arms by the settings that
differ, and paired with those of other arms by their seed. Shown are each arm's mean, its 95 % confidence interval and
the like; then each pair's difference, paired tests, corrected for the number of pairs (Holm), and a verdict in words.
A run that diverged or failed counts as the worst outcome.
--metric NAME or SPLIT/NAME compares by another metric than the test value of the monitored one: nll, val/accuracy.
--by KEY,KEY makes arms by these settings alone; each seed's value is then the mean over the others that differ.
--baseline NAME compares each arm with this one only. More than 6 arms are otherwise each compared with the best.
--target METRIC=NUMBER, or NUMBER for the metric compared, adds how soon a run's validation reached it, and how many
runs did. (>= and <= may stand for =, in quotes: a shell takes > for a file.)
The answer for one sweep is saved in its directory, as leaderboard.csv, leaderboard-pairs.csv, .md and .json. Other
answers are saved with --output DIRECTORY only; --force overwrites files that are there.

  lossbench compare outputs/my_sweep
  lossbench compare outputs/my_sweep outputs/another --metric nll --by loss --baseline cross_entropy
  lossbench compare outputs/my_sweep --target accuracy=0.95 --output answer
""",
        several=True,
        values={"--metric": (), "--by": (), "--baseline": (), "--target": (), "--output": ()},
        switches=("--force",),
    ),
}


def parse(command: str, words: Sequence[str]) -> Asked | None:
    """The words of a command; None where --help was asked for, and printed.

    Raises:
        ConfigError: a flag that the command does not have or that lacks its value, or a word too many or too few.
    """
    if {"--help", "-h"} & set(words):
        print(USAGES[command].text, end="")
        return None
    asked = read(command, words)
    _check(command, asked)
    return asked


def read(command: str, words: Sequence[str]) -> Asked:
    """The words of a command line that may not be complete.

    Raises:
        ConfigError: as `parse`, but nothing is missing yet.
    """
    usage, rest = USAGES[command], list(words)
    paths: list[str] = []
    overrides: list[str] = []
    switches: list[str] = []
    values: dict[str, str] = {}
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, value = _flag(command, word, rest)
            if name in values:
                raise ConfigError(f"{name} is given twice")
            if value is None:
                switches.append(name)
            else:
                values[name] = value
        elif usage.overrides and (not usage.path or paths or is_override(word)):
            overrides.append(word)
        elif usage.path and (usage.several or not paths):
            paths.append(word)
        else:
            raise ConfigError(f"{command} takes one PATH, and '{word}' is a word too many (lossbench {command} --help)")
    return Asked(paths, overrides, values, switches)


def is_override(word: str) -> bool:
    """Whether a word is KEY=VALUE, and not a path with `=` in it, as the jobs of a sweep have."""
    return bool(_OVERRIDE.match(word)) and not Path(word).exists()


def _flag(command: str, word: str, rest: list[str]) -> tuple[str, str | None]:
    """A flag's name and what follows it in its own word or, taken away there, in `rest`; None for a switch."""
    usage = USAGES[command]
    name, equals, value = word.partition("=")
    name = _SHORT.get(name, name)
    known = (*usage.values, *usage.switches)
    if name not in known:
        raise ConfigError(f"there is no flag '{name}'{did_you_mean(name, known)} (lossbench {command} --help)")
    if name in usage.switches:
        if equals:
            raise ConfigError(f"{name} takes no value")
        return name, None
    if not equals:
        if not rest or re.match(r"-[^\d.]", rest[0]):
            raise ConfigError(f"{name} needs a value")
        value = rest.pop(0)
    if not value:
        raise ConfigError(f"{name} needs a value")
    _check_value(name, value, usage.values[name])
    return name, value


def _check_value(name: str, value: str, choices: Sequence[str]) -> None:
    if name == "--checkpoint" and not _CHECKPOINT.fullmatch(value):
        names = "best, last, averaged or step-N"
        raise ConfigError(f"--checkpoint must be {names}, got '{value}'{did_you_mean(value, choices)}")
    if name in ("--split", "--format", "--by") and choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got '{value}'{did_you_mean(value, choices)}")


def _check(command: str, asked: Asked) -> None:
    """Refuse what is missing."""
    usage = USAGES[command]
    if usage.path and not asked.paths:
        example = f"lossbench {command} outputs/DATE/TIME-NAME"
        raise ConfigError(f"{command} what? PATH is missing, such as: {example} (lossbench {command} --help)")
    for word in asked.overrides:  # of a whole config Hydra says more
        if usage.path and not _OVERRIDE.match(word):
            raise ConfigError(f"'{word}' is not a setting; write key=value")
    for name in usage.needed:
        if name not in asked.values:
            raise ConfigError(f"{command} needs {name} FILE (lossbench {command} --help)")
