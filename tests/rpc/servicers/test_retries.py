"""Etags as preconditions, and retries with a request id, for configs, flags and registrations."""

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

from tests.rpc.messages import put, value
from tests.rpc.refusals import refused

Code = grpc.StatusCode


def test_config_is_written_and_deleted_only_with_its_current_etag(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    first = put(configs, environment, "k", 1).config.etag
    second = put(configs, environment, "k", 2, etag=first).config.etag
    assert first != second
    delete = config_pb2.DeleteConfigRequest(key="k", environment=environment, etag=first)
    assert refused(lambda: configs.DeleteConfig(delete)).info.reason == "STALE_ETAG"
    rollback = config_pb2.RollbackConfigRequest(key="k", environment=environment, version=1, etag=first)
    assert refused(lambda: configs.RollbackConfig(rollback)).info.reason == "STALE_ETAG"
    delete.etag = second
    assert configs.DeleteConfig(delete).version == 3
    found = refused(lambda: put(configs, environment, "k", 4, etag=second))
    assert (found.code, found.info.reason) == (Code.NOT_FOUND, "CONFIG_NOT_FOUND")


def test_batch_with_one_stale_etag_writes_nothing(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    old = put(configs, environment, "b", 1).config.etag
    put(configs, environment, "b", 2)
    operations = [
        config_pb2.ConfigOperation(key="a", value=value(1)),
        config_pb2.ConfigOperation(key="b", value=value(3), etag=old),
    ]
    batch = config_pb2.BatchWriteConfigsRequest(environment=environment, operations=operations)
    found = refused(lambda: configs.BatchWriteConfigs(batch))
    assert (found.code, found.info.metadata["operation"]) == (Code.ABORTED, "operations[1]")
    bulk = configs.BulkGetConfigs(config_pb2.BulkGetConfigsRequest(environment=environment, keys=["a", "b"]))
    assert list(bulk.missing) == ["a"]
    assert bulk.configs[0].value.number_value == 2


def test_flag_is_written_and_deleted_only_with_its_current_etag(
    flags: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    first = flags.CreateFlag(flag_pb2.CreateFlagRequest(name="f", environment=environment)).flag.etag
    update = flag_pb2.UpdateFlagRequest(name="f", environment=environment, enabled=True, etag=first)
    second = flags.UpdateFlag(update).flag.etag
    found = refused(lambda: flags.UpdateFlag(update))
    assert (found.code, found.info.reason, found.info.metadata["etag"]) == (Code.ABORTED, "STALE_ETAG", second)
    delete = flag_pb2.DeleteFlagRequest(name="f", environment=environment, etag=first)
    assert refused(lambda: flags.DeleteFlag(delete)).code == Code.ABORTED
    delete.etag = second
    flags.DeleteFlag(delete)


def test_retried_config_write_returns_the_first_outcome_and_happens_once(
    configs: config_pb2_grpc.ConfigServiceStub,
    changes: change_pb2_grpc.ChangeServiceStub,
    environment: str,
) -> None:
    create = config_pb2.CreateConfigRequest(
        key="k", environment=environment, value=value({"a": 1, "b": 2}), request_id=f"create-{environment}"
    )
    first = configs.CreateConfig(create)
    put(configs, environment, "k", "later")
    assert configs.CreateConfig(create) == first
    update = put(configs, environment, "k", 2, request_id=f"update-{environment}")
    assert put(configs, environment, "k", 2, request_id=f"update-{environment}") == update
    delete = config_pb2.DeleteConfigRequest(key="k", environment=environment, request_id=f"delete-{environment}")
    assert configs.DeleteConfig(delete) == configs.DeleteConfig(delete)
    trail = changes.ListChanges(change_pb2.ListChangesRequest(environment=environment)).changes
    assert len(trail) == 4


def test_request_id_reused_for_other_content_is_refused(
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    registry: registry_pb2_grpc.RegistryServiceStub,
    environment: str,
) -> None:
    used = f"used-{environment}"
    put(configs, environment, "k", 1, request_id=used)
    calls = [
        lambda: put(configs, environment, "k", 2, request_id=used),
        lambda: put(configs, environment, "other", 1, request_id=used),
        lambda: configs.DeleteConfig(config_pb2.DeleteConfigRequest(key="k", environment=environment, request_id=used)),
        lambda: flags.CreateFlag(flag_pb2.CreateFlagRequest(name="f", environment=environment, request_id=used)),
        lambda: registry.RegisterInstance(registration(environment, request_id=used)),
    ]
    for call in calls:
        found = refused(call)
        assert (found.code, found.info.reason) == (Code.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
        assert found.info.metadata["request_id"] == used
    get = config_pb2.GetConfigRequest(key="k", environment=environment)
    assert configs.GetConfig(get).config.value.number_value == 1


def test_retried_flag_write_returns_the_first_outcome(flags: flag_pb2_grpc.FlagServiceStub, environment: str) -> None:
    create = flag_pb2.CreateFlagRequest(name="f", environment=environment, request_id=f"create-{environment}")
    assert flags.CreateFlag(create) == flags.CreateFlag(create)
    update = flag_pb2.UpdateFlagRequest(
        name="f", environment=environment, enabled=True, request_id=f"update-{environment}"
    )
    first = flags.UpdateFlag(update)
    assert (first.flag.version, flags.UpdateFlag(update)) == (2, first)


def registration(service: str, **more: object) -> registry_pb2.RegisterInstanceRequest:
    return registry_pb2.RegisterInstanceRequest(
        service_name=service,
        instance_id="one",
        service_url="http://host:1",
        **more,  # type: ignore[arg-type]
    )


def test_retried_registration_returns_the_first_outcome_in_any_order_of_metadata(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    names = [f"name-{number}" for number in range(40)]
    register = registration(environment, request_id=environment, metadata=dict.fromkeys(names, "x"))
    again = registration(environment, request_id=environment, metadata=dict.fromkeys(reversed(names), "x"))
    first = registry.RegisterInstance(register)
    second = registry.RegisterInstance(again)
    assert (second.revision, second.instance.etag) == (first.revision, first.instance.etag)


def test_retry_of_a_registration_that_changed_nothing_is_answered(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    first = registry.RegisterInstance(registration(environment))
    same = registration(environment, request_id=environment)
    for _ in range(2):
        assert registry.RegisterInstance(same).instance.etag == first.instance.etag


def test_retried_deregistration_returns_the_first_outcome(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    registry.RegisterInstance(registration(environment))
    deregister = registry_pb2.DeregisterInstanceRequest(
        service_name=environment, instance_id="one", request_id=environment
    )
    assert registry.DeregisterInstance(deregister) == registry.DeregisterInstance(deregister)
    deregister.request_id = ""
    assert refused(lambda: registry.DeregisterInstance(deregister)).code == Code.NOT_FOUND
