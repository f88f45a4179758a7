"""The plugin, where this folder is run alone; `tests/conftest.py` loads it for everything else."""

from __future__ import annotations

import pytest

_PLUGIN = "tests.engines.plugin"


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(_PLUGIN):
        config.pluginmanager.import_plugin(_PLUGIN)
