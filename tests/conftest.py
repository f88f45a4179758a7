"""What every test can ask for: the real services, started once a run (see `tests/engines`)."""

from hypothesis import Phase, settings

pytest_plugins = ["tests.engines.plugin"]

# For `make mutants`, which asks whether a test fails, and not for the smallest example of it.
settings.register_profile("quick", max_examples=20, phases=(Phase.explicit, Phase.generate), database=None)
