"""Names that the REST API shadows are derived from the protos, and refused by the service and by the client's package."""

import pytest
from configsvc_client.evaluation import InvalidFlag, check_flag
from configsvc_client.evaluation.flag import Flag
from configsvc_client.evaluation.rest_names import SHADOWED_NAMES
from configsvc_client.evaluation.shadowed_names import ShadowedNames
from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, health_pb2, registry_pb2, watch_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from configsvc.domain.fields import checked, key_problem
from configsvc.domain.limits import Limits
from configsvc.errors import InvalidInput
from scripts.generate_stubs import rest_names, shadowed_names

MODULES = (change_pb2, config_pb2, flag_pb2, health_pb2, registry_pb2, watch_pb2)


def protos() -> list[FileDescriptorProto]:
    copies = []
    for module in MODULES:
        copies.append(FileDescriptorProto())
        module.DESCRIPTOR.CopyToProto(copies[-1])
    return copies


def with_path(path: str) -> ShadowedNames:
    """What is shadowed once an RPC with this path is added to the last of the protos that have a service."""
    copies = protos()
    service = next(proto for proto in reversed(copies) if proto.service).service[0]
    service.method.add(name="Added").options.Extensions[annotations_pb2.http].get = path
    return ShadowedNames(**shadowed_names(copies))


def test_committed_names_are_those_of_the_protos() -> None:
    assert ShadowedNames(**{k: list(v) for k, v in shadowed_names(protos()).items()}) == SHADOWED_NAMES
    assert "SHADOWED_NAMES" in rest_names()


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/api/v1/config/{key=**}:archive", "a/b:archive"),
        # The gateway cuts custom verbs off every path, so a verb of another service counts, too.
        ("/api/v1/elsewhere:archive", "a:archive"),
        ("/api/v1/config/{key=**}/owners", "a/owners"),
        ("/api/v1/config/search", "search"),
    ],
)
def test_path_added_to_a_descriptor_shadows_a_key(path: str, key: str) -> None:
    assert key_problem(key) == ""
    assert "must not" in key_problem(key, names=with_path(path))
    assert key_problem("owners", names=with_path(path)) == "", "only a last segment of several is shadowed"


def test_path_added_to_a_descriptor_shadows_a_flag_name() -> None:
    assert SHADOWED_NAMES.flag_name_problem("search") == ""
    assert "shadows" in with_path("/api/v1/feature-flags/search/deep").flag_name_problem("search")


@pytest.mark.parametrize("key", ["bulk", "a/history", "a:rollback", "a/b:diff", "x:watch", "x:apply", "a:batchWrite"])
def test_shadowed_key_can_be_read_and_not_written(key: str) -> None:
    with checked(Limits()) as fields:
        fields.key(key)
    with pytest.raises(InvalidInput) as refused, checked(Limits()) as fields:
        fields.key(key, written=True)
    assert [violation.field for violation in refused.value.violations] == ["key"]


@pytest.mark.parametrize("key", ["history", "a/bulk", "bulk/a", "history/a", "a:rollback/b", "a:other"])
def test_key_that_only_resembles_a_shadowed_one_is_accepted(key: str) -> None:
    assert key_problem(key) == ""


def test_shadowed_flag_name_is_refused_by_service_and_client_with_the_same_words() -> None:
    with pytest.raises(InvalidFlag) as by_client:
        check_flag(Flag("evaluate", "test"))
    with pytest.raises(InvalidInput) as by_service, checked(Limits()) as fields:
        fields.flag_name("name", "evaluate")
    assert by_client.value.violations == by_service.value.violations
