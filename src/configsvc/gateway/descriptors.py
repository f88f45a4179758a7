"""What Envoy's transcoder must know of the protos to turn messages into JSON and back."""

from collections.abc import Iterator
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2 as grpc_health_pb2

from configsvc.rpc.services import SERVICES


def descriptor_set() -> bytes:
    """The serialized descriptors of the services, of errors and their details, and of all that these import.

    Imports come first.
    """
    files: dict[str, FileDescriptor] = {}
    protos = [service.descriptor.file for service in SERVICES]
    for root in (*protos, error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR):
        for file in _with_imports(root):
            files.setdefault(file.name, file)
    descriptors = FileDescriptorSet()
    for file in files.values():
        proto = descriptors.file.add()
        proto.ParseFromString(file.serialized_pb)
        _return_resources(proto, file)
    return descriptors.SerializeToString()


def paths_of_single_requests() -> Iterator[str]:
    """The paths of the gRPC methods whose request is one message, not a stream."""
    health: Any = grpc_health_pb2.DESCRIPTOR.services_by_name["Health"]
    for service in (*(service.descriptor for service in SERVICES), health):
        for method in service.methods:
            if not method.client_streaming:
                yield f"/{service.full_name}/{method.name}"


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file


def _return_resources(proto: FileDescriptorProto, file: FileDescriptor) -> None:
    """Makes the resource itself the answer of each method that has a `response_body`.

    Envoy supports `response_body` only for google.api.HttpBody. So the method returns the field's message in Envoy's
    descriptors, and the server sends just that message if the call comes from the gateway (`rpc/interceptors/messages.py`).
    """
    for service in proto.service:
        for method in service.method:
            rule = method.options.Extensions[annotations_pb2.http]
            if rule.response_body:
                response = file.services_by_name[service.name].methods_by_name[method.name].output_type
                resource = response.fields_by_name[rule.response_body].message_type
                assert resource is not None, "a response_body is a message"
                method.output_type = f".{resource.full_name}"
                for binding in (rule, *rule.additional_bindings):
                    binding.ClearField("response_body")
