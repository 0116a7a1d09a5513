"""A checked config from Python, as the command line would compose it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lossbench.catalog import conf_dir
from lossbench.config import Config, check


def compose(*overrides: str, config_dirs: Sequence[Path] = ()) -> Config:
    """The config of `lossbench train OVERRIDES`, checked: `build(compose("loss=focal", "optim.lr=0.01"))`.

    Args:
        config_dirs: a user's own directories of YAML files, as `--config-dir` names them.

    Raises:
        ConfigError: what the config holds is wrong; Hydra's own errors come as they are.
    """
    paths = ",".join(f"'file://{_escaped(path.resolve())}'" for path in config_dirs)
    own = [f"hydra.searchpath=[{paths}]"] if config_dirs else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra_compose("config", overrides=[*own, *overrides], return_hydra_config=True)
    return check_composed(cfg)


def check_composed(cfg: DictConfig) -> Config:
    """Check a config as Hydra composes it, with its own part, which says what was chosen in each group."""
    return check(OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"]), dict(cfg.hydra.runtime.choices))


def _escaped(path: Path) -> str:
    """As Hydra reads it between single quotes."""
    return str(path).replace("\\", "\\\\").replace("'", "\\'")
