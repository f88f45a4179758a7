"""Copies of flag sets in the fallback cache, in parts: a change puts the part of the changed flag, not the whole set.

A part has the flags whose names have one hash. The manifest of a set says how many parts it has. Replicas put parts and
manifests independently, and any of them may be lost, late or evicted. So each says for which revisions it holds:

- A part has the same flags from its `since` up to the revision of its entry.
- A manifest of revision R has a number for each part: the part has not changed from then up to R.

If these two ranges have a revision in common, the part has the flags of revision R. A reader uses a copy only if that
holds for all parts, so it gets the whole set of one revision or none (docs/architecture.md, law 5). Replicas may know the
same part since different revisions, because they read the set at different times; their parts and manifests fit together
nevertheless.

Releases before this one had one entry for each set, with the key `flags:{environment}`. It is neither read nor written.
"""

import asyncio
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configsvc_client.evaluation import Flag, FlagSet

from configsvc.app.fallback_cache import FallbackCache, FallbackEntry

# A change encodes one part and a number for each part, so parts are neither large nor very many.
FLAGS_PER_PART = 32
# A set is cut again if its parts have this many times more or fewer flags, so that a set whose size changes a little is
# not cut again and again.
RESIZE_FACTOR = 4
# What one read asks of the cache: some 3,000 flags. Between two reads other tasks run.
PARTS_PER_READ = 100
# A replica may put a change between the reads of a manifest and of its parts.
READ_ATTEMPTS = 2


class FlagSetParts:
    """A flag set, cut into parts, which the changes of the set keep up to date."""

    def __init__(self, flag_set: FlagSet) -> None:
        self.environment = flag_set.environment
        self._cut(flag_set)

    def replace(self, flag_set: FlagSet, changed_names: Sequence[str]) -> Iterator[FallbackEntry]:
        """Takes the set after a change of these flags. Returns the entries that differ, the manifest last."""
        self._revision = flag_set.revision
        size = len(flag_set) / FLAGS_PER_PART
        if size > RESIZE_FACTOR * len(self._parts) or 1 < len(self._parts) > RESIZE_FACTOR * size:
            self._cut(flag_set)
            return self.entries(flag_set.revision)
        changed_parts: dict[int, dict[str, Flag]] = {}
        for name in changed_names:
            index = _part_of(name, len(self._parts))
            # Entries that wait to be sent have the old part, so it is not changed.
            part = changed_parts.setdefault(index, self._parts[index].copy())
            if (flag := flag_set.get(name)) is None:
                part.pop(name, None)
            else:
                part[name] = flag
        for index, part in changed_parts.items():
            self._parts[index], self._since[index] = part, flag_set.revision
        return self._entries_of(sorted(changed_parts), flag_set.revision)

    def entries(self, revision: int) -> Iterator[FallbackEntry]:
        """All entries, the manifest last. `revision`: the set has not changed up to it."""
        return self._entries_of(range(len(self._parts)), max(revision, self._revision))

    def _cut(self, flag_set: FlagSet) -> None:
        self._revision = flag_set.revision
        count = 1
        while count * FLAGS_PER_PART < len(flag_set):
            count *= 2
        self._parts: list[dict[str, Flag]] = [{} for _ in range(count)]
        for flag in flag_set:
            self._parts[_part_of(flag.name, count)][flag.name] = flag
        # The part may not have changed for long, but this replica does not know.
        self._since = [flag_set.revision] * count

    def _entries_of(self, indexes: Sequence[int], revision: int) -> Iterator[FallbackEntry]:
        for index in indexes:
            yield _part_entry(
                _part_key(self.environment, len(self._parts), index), revision, self._since[index], self._parts[index]
            )
        since = tuple(self._since)
        yield FallbackEntry(_manifest_key(self.environment), revision, lambda: {"parts_since": since})


async def find_copy(fallback_cache: FallbackCache, environment: str) -> FlagSet | None:
    """The set that replicas left in the cache; None if it is not there as a whole."""
    for _ in range(READ_ATTEMPTS):
        manifest_key = _manifest_key(environment)
        manifest = (await fallback_cache.get([manifest_key])).get(manifest_key)
        if manifest is None or (parts_since := _parts_since(manifest.value)) is None:
            return None
        flags = await _read_parts(fallback_cache, environment, parts_since, manifest.revision)
        if flags is not None:
            # The set stays whole: a flag that this release can't read is in it, as an error of its own.
            return FlagSet(environment, map(Flag.from_stored, flags), manifest.revision)
    return None


async def _read_parts(
    fallback_cache: FallbackCache, environment: str, parts_since: Sequence[int], revision: int
) -> Sequence[Mapping[str, Any]] | None:
    flags: list[Mapping[str, Any]] = []
    keys = [_part_key(environment, len(parts_since), index) for index in range(len(parts_since))]
    for start in range(0, len(keys), PARTS_PER_READ):
        found = await fallback_cache.get(keys[start : start + PARTS_PER_READ])
        for key, unchanged_since in zip(
            keys[start : start + PARTS_PER_READ], parts_since[start : start + PARTS_PER_READ], strict=True
        ):
            part = found.get(key)
            if part is None or part.revision < unchanged_since or not _is_part(part.value, since_at_most=revision):
                return None
            flags += part.value["flags"]
        await asyncio.sleep(0)
    return flags


def _part_of(name: str, count: int) -> int:
    """Replicas and releases must agree on it. `hash` differs between processes."""
    return zlib.crc32(name.encode()) % count


def _manifest_key(environment: str) -> str:
    return f"flag-set:{environment}"


def _part_key(environment: str, count: int, index: int) -> str:
    # Parts of sets that are cut differently are different entries.
    return f"flag-set-part:{count}:{index}:{environment}"


def _part_entry(key: str, revision: int, since: int, part: Mapping[str, Flag]) -> FallbackEntry:
    return FallbackEntry(key, revision, lambda: {"since": since, "flags": [flag.to_json() for flag in part.values()]})


def _parts_since(manifest: Any) -> Sequence[int] | None:
    """The numbers of a manifest; None if another release wrote it in another form."""
    numbers = manifest.get("parts_since") if isinstance(manifest, dict) else None
    if isinstance(numbers, list) and numbers and all(isinstance(number, int) for number in numbers):
        return numbers
    return None


def _is_part(part: Any, *, since_at_most: int) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("flags"), list)
        and isinstance(part.get("since"), int)
        and part["since"] <= since_at_most
    )
