"""`lossbench compare`: which arm is better, by how much, and whether the difference is real."""

from __future__ import annotations

from pathlib import Path

from lossbench.commands.usage import Asked
from lossbench.console import say
from lossbench.errors import ConfigError, ResourceError
from lossbench.report.comparison import Question, compare
from lossbench.report.leaderboard import keep, show
from lossbench.report.leaderboard_files import save, there
from lossbench.report.runs import is_sweep, read_runs


def run(asked: Asked) -> None:
    """Compare the runs in the paths, show the answer, and save it.

    Raises:
        ConfigError: it cannot be answered, or there are files already.
        ResourceError: the directory of `--output` cannot be written to.
    """
    paths, force = [Path(path) for path in asked.paths], "--force" in asked.switches
    values = asked.values
    question = Question(
        metric=values.get("--metric"),
        by=tuple(key.strip() for key in values.get("--by", "").split(",") if key.strip()),
        baseline=values.get("--baseline"),
        target=values.get("--target"),
    )
    output = Path(values["--output"]) if "--output" in values else None
    if output is not None:
        _check_output(output, force=force)
    found = read_runs(paths)
    comparison = compare(found, question)
    show(comparison)
    if output is not None:
        save(comparison, output)
        say(f"saved in {output}")
    elif len(paths) == 1 and is_sweep(paths[0]) and question == Question() and not found.is_search:
        keep(comparison, paths[0], force=force)
    else:
        say("not saved; --output DIRECTORY saves it")


def _check_output(output: Path, *, force: bool) -> None:
    """Refuse a place that cannot be written to, before the work is done."""
    if output.exists() and not output.is_dir():
        raise ResourceError(f"cannot write to '{output}': it is a file; name a directory")
    if not force and (found := there(output)):
        raise ConfigError(f"'{found[0]}' is there already; --force overwrites it, --output DIRECTORY names another")
