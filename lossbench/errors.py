"""The errors that lossbench foresees. Each is one line on stderr and an exit code; none shows a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 300  # characters of an error that is recorded


class LossbenchError(Exception):
    """An error whose message says what to do; `code` is the process's exit code."""

    code = 1


class ConfigError(LossbenchError):
    """A wrong command line or config."""

    code = 2


class DataError(LossbenchError):
    """Data that cannot be read or do not hold what they should."""

    code = 3


class Diverged(LossbenchError):
    """The loss or a gradient stopped being finite, and the policy says to end the run."""

    code = 4


class CheckpointError(LossbenchError):
    """A checkpoint that cannot be used."""

    code = 5


class ResourceError(LossbenchError):
    """A device, memory, disk or directory that is not there."""

    code = 6


class SweepFailed(LossbenchError):
    """A sweep ended and some of its jobs failed; a diverged job is a result, not a failure."""

    code = 10


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice nearest to `word`, or an empty string where none is near."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def plural(n: int, noun: str) -> str:
    """`1 step`, `2 steps`, `3 batches`."""
    if n == 1:
        return f"{n:,} {noun}"
    return f"{n:,} {noun}{'es' if noun.endswith(('s', 'tch', 'x')) else 's'}"


def printable(text: str) -> str:
    """As one line, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def cause(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters; one that is not ours with its type in front."""
    text = str(error) if isinstance(error, LossbenchError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    return shortened(text)


def shortened(text: str) -> str:
    """As one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def first_line(error: BaseException) -> str:
    """What an error says, or its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def is_memory(error: BaseException) -> bool:
    """Whether an error is about memory, the device's or the host's."""
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return short or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def refuse_memory(error: BaseException) -> None:
    """Raise a ResourceError in place of an error that is about memory; others pass."""
    if is_memory(error):
        raise ResourceError(
            "out of memory; try a smaller trainer.batch_size (with trainer.accumulate for the same step) or model"
        ) from error
