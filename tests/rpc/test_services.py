"""The list of services."""

import importlib
import pkgutil

import configsvc_client.v1

from configsvc.rpc.services import SERVICES


def test_every_service_of_the_protos_is_listed_once() -> None:
    modules = [module.name for module in pkgutil.iter_modules(configsvc_client.v1.__path__)]
    protos = [importlib.import_module(f"configsvc_client.v1.{name}") for name in modules if name.endswith("_pb2")]
    defined = [service.full_name for proto in protos for service in proto.DESCRIPTOR.services_by_name.values()]
    assert defined
    assert sorted(service.descriptor.full_name for service in SERVICES) == sorted(defined)
