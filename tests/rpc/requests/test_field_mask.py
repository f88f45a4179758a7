"""Which fields an update writes, without a server."""

import pytest
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from configsvc.errors import InvalidInput
from configsvc.rpc.requests.field_mask import fields_to_write, operation_fields_to_write, writable_fields
from tests.rpc.requests.incoming import call

WRITABLE = ("description", "tags", "enabled")
REST = ("x-configsvc-rest", "1")


def update(*, mask: list[str] | None = None, **fields: object) -> flag_pb2.UpdateFlagRequest:
    request = flag_pb2.UpdateFlagRequest(name="f", environment="e", **fields)  # type: ignore[arg-type]
    if mask is not None:
        request.update_mask.CopyFrom(FieldMask(paths=mask))
    return request


def refused_field(request: flag_pb2.UpdateFlagRequest) -> str:
    with pytest.raises(InvalidInput) as raised:
        fields_to_write(call(), request, WRITABLE)
    return raised.value.violations[0].field


def test_writable_fields_are_the_resources_without_identity_and_etag() -> None:
    identity = ("key", "environment", "service_name")
    assert writable_fields(config_pb2.UpdateConfigRequest, config_pb2.Config, identity=identity) == (
        "value",
        "description",
    )


def test_mask_names_the_fields_whatever_is_set() -> None:
    request = update(mask=["tags", "enabled"], description="set, but not named")
    assert fields_to_write(call(), request, WRITABLE) == {"tags", "enabled"}


def test_star_names_all_writable_fields() -> None:
    assert fields_to_write(call(), update(mask=["*"]), WRITABLE) == set(WRITABLE)


@pytest.mark.parametrize("mask", [[], ["name"], ["tags.0"], ["*", "tags"]])
def test_mask_that_does_not_name_whole_writable_fields_is_refused(mask: list[str]) -> None:
    assert refused_field(update(mask=mask)) == "update_mask"


def test_fields_that_are_set_are_written_over_grpc() -> None:
    request = update(description="", tags=[], enabled=True)
    assert fields_to_write(call(), request, WRITABLE) == {"description", "enabled"}


def test_fields_that_the_body_names_are_written_over_rest() -> None:
    context = call(REST, ("x-configsvc-members", "tags,name"))
    assert fields_to_write(context, update(enabled=True), WRITABLE) == {"tags"}


def test_update_without_a_field_is_refused() -> None:
    assert refused_field(update()) == "description"


def test_operation_of_a_batch_writes_set_fields_and_its_own_empty_lists() -> None:
    context = call(("x-configsvc-emptied", "0:tags,11:tags,1:rules"))
    assert operation_fields_to_write(context, 0, update(enabled=True), WRITABLE) == {"enabled", "tags"}
    assert operation_fields_to_write(context, 1, update(enabled=True), WRITABLE) == {"enabled"}
    assert operation_fields_to_write(context, 0, update(mask=["enabled"]), WRITABLE) == {"enabled"}
    with pytest.raises(InvalidInput):
        operation_fields_to_write(context, 2, update(), WRITABLE)
