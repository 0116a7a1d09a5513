"""Launchers of other plugins, with our settings of them."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray")


class LauncherSchemas(SearchPathPlugin):
    """Moves what a plugin registers as `hydra/launcher=NAME` to `hydra/launcher/plugin=NAME`.

    Our `conf/hydra/launcher/NAME.yaml` takes it from there, as its schema: of two by one name Hydra warns. Hydra calls
    this once it has imported all plugins, before it composes anything.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        store = ConfigStore.instance()
        registered = store.repo.get("hydra", {}).get("launcher", {})
        for name in LAUNCHERS:
            if found := registered.pop(f"{name}.yaml", None):
                store.store(name, found.node, group="hydra/launcher/plugin", provider=found.provider)
