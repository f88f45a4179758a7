"""Settings: an error names the variable, and `env.template` lists all of them."""

from pathlib import Path

import pytest

from configsvc import settings
from configsvc.settings import SettingsError

ROOT = Path(__file__).resolve().parents[1]


def test_template_lists_every_setting() -> None:
    assert (ROOT / "env.template").read_text().splitlines() == list(settings.template())


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("PORT", "70000", "65535"),
        ("HOST", "localhost", "127.0.0.1"),
        ("DATABASE_URL", "mysql://user:secret@host/db", "postgresql://"),
        ("ZOOKEEPER_BASE_PATH", "services/", "/services"),
        ("KAFKA_BOOTSTRAP_SERVERS", "broker", "host:port"),
        ("HEALTH_CHECK_DENIED_NETWORKS", "everywhere", "everywhere"),
        ("HEALTH_CHECK_CA_FILE", "/dev/null", "PEM"),
        ("LOG_LEVEL", "loud", "debug"),
        ("ACCESS_LOG", "none", "sampled"),
        ("ZOOKEEPER_AUTH", "digest:secret", "digest:user:password"),
        ("ZOOKEEPER_ACL", "rx", "cdrwa"),
        ("COMPACTION_KEEP_DAYS", "-1", "0: never"),
        ("WORKERS", "2", "embedded"),
        ("WORKERS", "0", "auto"),
        ("WORKERS", "65", "64"),
        ("WORKERS", "many", "auto"),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    (line,) = caught.value.lines
    assert line.startswith(name)
    assert part in line
    assert "secret" not in line


def test_removed_setting_is_ignored_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.removed_settings() == ()
    monkeypatch.setenv("SHARE_EVALUATIONS", "true")
    settings.load()
    (line,) = settings.removed_settings()
    assert line.startswith("SHARE_EVALUATIONS is ignored")


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (6, 6), (500, 64)])
def test_auto_is_one_worker_a_core(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr(settings, "usable_cores", lambda: cores)
    monkeypatch.setenv("WORKERS", "auto")
    assert settings.load().workers == 1, "the embedded backends live in one process"
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@host/db")
    monkeypatch.setenv("ZOOKEEPER_HOSTS", "host:2181")
    assert settings.load().workers == expected
