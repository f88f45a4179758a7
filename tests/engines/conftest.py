"""Loads the plugin if this folder is run alone; otherwise `tests/conftest.py` loads it."""

from __future__ import annotations

import pytest

_PLUGIN = "tests.engines.plugin"


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(_PLUGIN):
        config.pluginmanager.import_plugin(_PLUGIN)
