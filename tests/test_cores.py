"""How many cores a process may use."""

import os
from pathlib import Path

import pytest

from configsvc.cores import usable_cores

MANY = 16


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))


def cores(directory: Path, groups: str, **files: str) -> int:
    """With these control groups. The keys of `files` are paths with `__` for a slash; `cpu_` begins the name of a file of the controller."""
    own = directory / "own"
    own.write_text(groups)
    for name, text in files.items():
        file = directory / "mounted" / name.replace("__", "/").replace("cpu_", "cpu.", 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return usable_cores(own, directory / "mounted")


def test_affinity_counts_without_a_quota(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == MANY
    assert cores(tmp_path, "0::/\n") == MANY
    assert cores(tmp_path, "0::/a\n", a__cpu_max="max 100000\n") == MANY


@pytest.mark.parametrize(("limit", "expected"), [(200_000, 2), (150_000, 1), (50_000, 1), (10_000_000, MANY)])
def test_quota_of_the_unified_hierarchy(tmp_path: Path, limit: int, expected: int) -> None:
    assert cores(tmp_path, "0::/\n", cpu_max=f"{limit} 100000\n") == expected


def test_least_quota_of_all_groups_around_counts(tmp_path: Path) -> None:
    files = {"a__cpu_max": "300000 100000\n", "a__b__cpu_max": "max 100000\n", "a__b__c__cpu_max": "800000 100000\n"}
    assert cores(tmp_path, "0::/a/b/c\n", **files) == 3


@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", MANY)])
def test_quota_of_the_older_hierarchy(tmp_path: Path, quota: str, expected: int) -> None:
    files = {"cpu,cpuacct__a__cpu_cfs_quota_us": quota, "cpu,cpuacct__a__cpu_cfs_period_us": "100000"}
    assert cores(tmp_path, "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n", **files) == expected


def test_group_of_the_host_that_is_not_mounted_is_the_root(tmp_path: Path) -> None:
    assert cores(tmp_path, "0::/kubepods/pod/container\n", cpu_max="200000 100000\n") == 2
