"""A run is checked and built before Hydra makes its directory."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class BeforeRun(Callback):
    """Hydra calls `on_run_start` for a single run, before anything is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        from lossbench.app import before_run

        before_run(config)
