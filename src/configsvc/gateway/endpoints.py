"""The workers that Envoy calls: a file that Envoy watches (EDS, envoy.config.endpoint.v3)."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from configsvc.clock import Clock
from configsvc.gateway import admin
from configsvc.gateway.config import cluster_load_assignment

POLL_SECONDS = 0.02
# How long Envoy has to read the file, and to check the health of a worker that serves.
APPLY_SECONDS = 10.0
# Envoy's threads learn of a change a moment after its admin interface shows it.
THREADS_SECONDS = 0.25


class EndpointsError(Exception):
    """Envoy does not use the endpoints that it was given."""


class Endpoints:
    """The addresses of the workers that get calls. Envoy's bootstrap names `file`."""

    def __init__(self, file: Path, admin_path: str, clock: Clock) -> None:
        self.file = file
        self._admin_path = admin_path
        self._clock = clock

    def write(self, addresses: Sequence[str]) -> None:
        """Writes the file; Envoy reads it in a moment."""
        assignment = {
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            **cluster_load_assignment(addresses),
        }
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps({"resources": [assignment]}))
        # Envoy reads the file when it is replaced by a rename.
        os.replace(draft, self.file)

    async def replace(self, addresses: Sequence[str], *, healthy: str = "") -> None:
        """Writes the file; returns when Envoy calls only these workers, and knows that the one at `healthy` is healthy.

        Raises:
            EndpointsError: Envoy does not follow.
        """
        self.write(addresses)
        await self._until(lambda known: known.keys() == set(addresses) and known.get(healthy, True))
        await self._clock.sleep(THREADS_SECONDS)

    async def _until(self, condition: Callable[[Mapping[str, bool]], bool]) -> None:
        try:
            async with asyncio.timeout(APPLY_SECONDS):
                while True:
                    with contextlib.suppress(httpx.HTTPError, KeyError):
                        if condition(await admin.endpoints(self._admin_path)):
                            return
                    await self._clock.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise EndpointsError(f"Envoy does not use the new list of workers after {APPLY_SECONDS:.0f} s") from error
