"""The embedded database is deleted or damaged at run time: callers get an error, and nothing is lost silently."""

from pathlib import Path

import grpc
import pytest

from tests.faults.test_full_disk import refusal
from tests.replicas.fleet import eventually, fleet


def test_deleted_database_is_reported_and_no_write_is_acknowledged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = {"SQLITE_PATH": str(data / "configsvc.db")}
    with fleet(tmp_path, settings, "embedded") as (replica,):
        replica.put("kept", "yes")
        for file in data.iterdir():
            file.unlink()
        assert refusal(lambda: replica.put("lost", "never")) == "STORAGE_GONE"
        assert refusal(lambda: replica.register("asr", "one")) == "STORAGE_GONE"
        storage = replica.component("storage")
        assert storage.state == "down"
        assert "was removed" in storage.detail
        assert "restore it, and start again" in storage.detail
        assert replica.value("kept") == "yes"


def test_damaged_value_is_refused_and_named_while_others_are_served(tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    settings = {"SQLITE_PATH": str(path)}
    with fleet(tmp_path, settings, "embedded") as (replica,):
        replica.put("good", "a good value")
        replica.put("bad", "a value that the disk alters")
        replica.stop()
        altered = path.read_bytes().replace(b"the disk alters", b"the disk aLters")
        path.write_bytes(altered)
        replica.start()
        eventually(lambda: replica.value("good") == "a good value", "the good value is served")
        with pytest.raises(grpc.RpcError) as refused:
            replica.get("bad")
        assert refused.value.code() is grpc.StatusCode.DATA_LOSS
        assert "config/test//bad" in (refused.value.details() or "")
        assert "config/test//bad" in replica.component("storage").detail
        with pytest.raises(grpc.RpcError) as closed:
            replica.put("new", 1)
        assert closed.value.code() is grpc.StatusCode.DATA_LOSS
