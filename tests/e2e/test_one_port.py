"""gRPC, gRPC-Web, CORS, reflection, health and REST on one port, and the behaviour on SIGTERM and kill -9."""

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc, registry_pb2, registry_pb2_grpc
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port
from tests.replicas.fleet import eventually

GRPCURL = Path(sysconfig.get_path("scripts")) / "grpcurl"


def test_native_grpc_returns_the_response_with_its_revision(service: Running, environment: str) -> None:
    with grpc.insecure_channel(service.target) as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        request = config_pb2.CreateConfigRequest(key="k", value=Value(string_value="v"), environment=environment)
        made = configs.CreateConfig(request)
        assert made.revision == made.config.revision > 0
        got = configs.GetConfig(
            config_pb2.GetConfigRequest(key="k", environment=environment, min_revision=made.revision)
        )
        assert got.config == made.config
        with pytest.raises(grpc.RpcError) as caught:
            configs.CreateConfig(request)
        assert isinstance(caught.value, grpc.Call)
        status = rpc_status.from_call(caught.value)
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        info = error_details_pb2.ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        assert info.reason == "CONFIG_ALREADY_EXISTS"


def test_bytes_that_are_not_a_message_are_invalid_argument(service: Running) -> None:
    with grpc.insecure_channel(service.target) as channel:
        garbage = b"\x0a\xff"
        unary: Callable[..., Any] = channel.unary_unary("/configsvc.v1.ConfigService/GetConfig")
        stream: Callable[..., Any] = channel.stream_stream("/configsvc.v1.RegistryService/KeepAlive")
        watch: Callable[..., Any] = channel.unary_stream("/configsvc.v1.ConfigService/WatchConfigs")
        for call in (lambda: unary(garbage), lambda: list(stream(iter([garbage]))), lambda: list(watch(garbage))):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "is not a message" in caught.value.details()


def test_keep_alive_stream_works_through_the_gateway(service: Running, environment: str) -> None:
    with grpc.insecure_channel(service.target) as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        made = registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(service_name=f"ka-{environment}", service_url="http://a:1")
        ).instance
        beat = registry_pb2.KeepAliveRequest(service_name=made.service_name, instance_id=made.instance_id)
        answers = registry.KeepAlive(iter([beat, beat]))
        assert [answer.lease_ttl_seconds for answer in answers] == [30, 30]


def test_grpc_web_works_over_http_1(service: Running, environment: str) -> None:
    request = config_pb2.CreateConfigRequest(key="web", value=Value(bool_value=True), environment=environment)
    message = request.SerializeToString()
    answer = httpx.post(
        f"{service.url}/configsvc.v1.ConfigService/CreateConfig",
        content=b"\0" + struct.pack(">I", len(message)) + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    )
    assert answer.status_code == 200
    (length,) = struct.unpack(">I", answer.content[1:5])
    made = config_pb2.CreateConfigResponse.FromString(answer.content[5 : 5 + length])
    assert made.config.key == "web"
    assert b"grpc-status:0" in answer.content[5 + length :]


def exchange(service: Running, *requests: str) -> str:
    """Sends all requests at once; returns everything that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall("".join(f"{request}\r\n\r\n" for request in requests).encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_answers_without_a_body_leave_the_connection_usable(
    service: Running, rest: httpx.Client, environment: str
) -> None:
    made = rest.post("/api/v1/config", json={"key": "k", "value": "v", "environment": environment})
    path = f"/api/v1/config/k?environment={environment}"
    etag = made.headers["etag"]
    answers = exchange(
        service,
        f"HEAD {path} HTTP/1.1\r\nhost: localhost",
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nif-none-match: {etag}",
        f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\nif-none-match: {etag}",
        "GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close",
    )
    heads = [part for part in answers.split("\r\n\r\n") if part]
    assert [int(head.split()[1]) for head in heads[:-1]] == [200, 304, 304, 200]
    assert all(f"etag: {etag}" in head for head in heads[:3])
    assert json.loads(heads[-1]) == {"status": "up"}


def test_head_is_a_get_without_body_and_options_lists_the_methods(rest: httpx.Client) -> None:
    for path, status in (("/health", 200), ("/api/v1/config/nope?environment=dev", 404), ("/nowhere", 404)):
        head, get = rest.head(path), rest.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"") == (status, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    options = rest.options("/api/v1/config")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")


def test_http_1_0_is_answered(service: Running) -> None:
    head, body = exchange(service, "GET /live HTTP/1.0").split("\r\n\r\n")
    assert head.split()[1] == "200"
    assert json.loads(body) == {"status": "up"}


def test_grpcurl_can_list_describe_and_call(service: Running, environment: str) -> None:
    def grpcurl(*arguments: str) -> str:
        done = subprocess.run([GRPCURL, *arguments], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = grpcurl("-plaintext", service.target, "list").split()
    for name in ("ConfigService", "FlagService", "RegistryService", "HealthService"):
        assert f"configsvc.v1.{name}" in listed
    assert "rpc WatchConfigs" in grpcurl("-plaintext", service.target, "describe", "configsvc.v1.ConfigService")
    health = json.loads(grpcurl("-plaintext", service.target, "grpc.health.v1.Health/Check"))
    assert health == {"status": "SERVING"}
    body = json.dumps({"key": "k", "value": {"a": [1]}, "environment": environment})
    made = json.loads(grpcurl("-plaintext", "-d", body, service.target, "configsvc.v1.ConfigService/CreateConfig"))
    assert made["config"]["value"] == {"a": [1]}


def test_unready_replica_answers_503_with_the_cause(tmp_path: Path) -> None:
    with Port() as port, Port() as nobody:
        environment = {
            "PORT": str(port.number), "HOST": "127.0.0.1", "PATH": os.environ["PATH"],
            "DATABASE_URL": f"postgresql://user@127.0.0.1:{nobody.number}/none",
        }  # fmt: skip
        log = (tmp_path / "log").open("wb")
        with (
            log,
            subprocess.Popen(
                [sys.executable, "-m", "configsvc", "up"], env=environment, cwd=tmp_path, stdout=log, stderr=log
            ) as process,
        ):
            try:
                url = f"http://127.0.0.1:{port.number}"
                eventually(lambda: _answers_json(f"{url}/ready"), "the service answers but is not ready")
                ready = httpx.get(f"{url}/ready")
                states = {part["name"]: part["state"] for part in ready.json()["components"]}
                assert (ready.status_code, ready.json()["status"], states["storage"]) == (503, "down", "down")
                assert httpx.head(f"{url}/ready").status_code == 503
                assert httpx.get(f"{url}/live").json() == {"status": "up"}
            finally:
                process.terminate()
            assert process.wait(30) == 0


def _answers_json(url: str) -> bool:
    try:
        return "components" in httpx.get(url, timeout=2).json()
    except httpx.TransportError:
        return False


def test_acknowledged_writes_survive_kill_9_of_everything(tmp_path: Path) -> None:
    with Port() as port:
        first = start(tmp_path, port.number)
        for number in range(20):
            body = {"key": f"k{number}", "value": number, "environment": "dev"}
            assert httpx.post(f"{first.url}/api/v1/config", json=body).status_code == 201
        first.process.kill()
        first.process.wait(10)
        second = start(tmp_path, port.number)
        configs = httpx.get(f"{second.url}/api/v1/config", params={"environment": "dev"}).json()["configs"]
        assert {c["key"]: c["value"] for c in configs} == {f"k{number}": number for number in range(20)}
        assert stop(second) == 0


def test_watchers_get_an_error_when_the_service_stops(tmp_path: Path) -> None:
    with Port() as port:
        running = start(tmp_path, port.number)
        with httpx.stream("GET", f"{running.url}/api/v1/config:watch?environment=dev", timeout=30) as stream:
            lines = (json.loads(line) for line in stream.iter_lines() if line.strip())
            assert "synced" in next(lines)
            running.process.terminate()
            last = next(lines)
            assert last["error"]["details"][0]["reason"] == "SHUTTING_DOWN"
        assert running.process.wait(30) == 0


def test_wrong_setting_stops_the_start_and_names_the_variable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "configsvc", "up"],
        env={"PORT": "many", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "PORT" in done.stderr
    assert "many" in done.stderr


def test_unusable_database_stops_the_start(tmp_path: Path, service: Running) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database, " * 1000)
    in_use = service.log.parent / "configsvc.db"
    for path, part in (
        (garbage / "x.db", "garbage"),
        (tmp_path, "file"),
        (garbage, "not a database"),
        (in_use, "in use"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "configsvc", "up"],
            env={"PORT": "0", "HOST": "127.0.0.1", "SQLITE_PATH": str(path), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 2, done.stderr
        assert f"SQLITE_PATH: '{path}' can't be used: " in done.stderr
        assert part in done.stderr
        assert "started again" not in done.stderr


def test_more_than_one_worker_on_embedded_backends_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "configsvc", "up"],
        env={"WORKERS": "2", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "WORKERS" in done.stderr


def test_grpc_web_text_is_base64(service: Running) -> None:
    message = b"\0" + struct.pack(">I", 0)
    answer = httpx.post(
        f"{service.url}/configsvc.v1.HealthService/GetLiveness",
        content=base64.b64encode(message),
        headers={"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"},
    )
    assert answer.status_code == 200
    assert base64.b64decode(answer.content[:8])[0] == 0


def test_rest_answer_has_no_internal_headers(rest: httpx.Client, environment: str) -> None:
    body = {"key": "k", "value": 1, "environment": environment}
    missing = rest.get("/api/v1/config/missing", params={"environment": environment})
    for answer in (rest.post("/api/v1/config", json=body), missing, rest.get("/health")):
        assert [
            name for name in answer.headers if name.startswith(("grpc-", "x-envoy-", "x-http-", "x-configsvc-"))
        ] == []
