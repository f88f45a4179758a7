"""What every test can ask for: the real services, started once a run (see `tests/engines`)."""

pytest_plugins = ["tests.engines.plugin"]
