"""What every test can ask for: the real services, started once a run (see `tests/services`)."""

pytest_plugins = ["tests.services.plugin"]
