"""The combinations of settings that a command line names with commas, as `plot` and `find-lr` take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lossbench.app import check_config_dir, with_recorded
from lossbench.commands.usage import Asked
from lossbench.hydra_errors import translate
from lossbench.sweep.expand import jobs, labels, options_loader, unique

MOST = 100


def combinations(asked: Asked) -> list[tuple[str, list[str]]]:
    """Each combination's name, which is empty where there is but one, and its settings.

    Raises:
        ConfigError: a config directory that is not there, or a sweep over nothing or too much; Hydra's own errors come
            as they are.
    """
    check_config_dir([f"--config-dir={directory}" for directory in asked.config_dirs])
    words, loader = with_recorded([], asked.overrides), options_loader(asked.config_dirs)
    found = unique(jobs(words, loader, limit=MOST, raised_by=None))
    return list(zip(labels(found), found, strict=True))


@contextmanager
def said_of(label: str, words: Sequence[str]) -> Iterator[None]:
    """Let an error say of which of several combinations it is.

    Args:
        words: the combination's settings, which Hydra's errors are about.
    """
    try:
        yield
    except Exception as error:
        said = translate(error, words)
        if said is None or not label:
            raise
        raise type(said)(f"{label}: {said}") from error
