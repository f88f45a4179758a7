"""Messages from the values of the domain, and values from messages."""

from configsvc.rpc.convert.changes import applied, audit, audit_filter, changed_fields, changed_flag_fields
from configsvc.rpc.convert.configs import config, config_change, config_version, difference, effective
from configsvc.rpc.convert.drafts import CONFIG_FIELDS, config_draft, config_operation, partial_config_draft, ref_of
from configsvc.rpc.convert.flags import context, evaluation, flag, flag_change, flag_version
from configsvc.rpc.convert.health import health
from configsvc.rpc.convert.instances import (
    check_result,
    foreign_event,
    instance,
    instance_change,
    metadata_filter,
    registration,
    service_summary,
)
from configsvc.rpc.convert.members import FLAG_FIELDS, definition, flag_filter, members
from configsvc.rpc.convert.values import json_of, json_or_missing, struct_of, time_of, timestamp, value_of

__all__ = [
    "CONFIG_FIELDS",
    "FLAG_FIELDS",
    "applied",
    "audit",
    "audit_filter",
    "changed_fields",
    "changed_flag_fields",
    "check_result",
    "config",
    "config_change",
    "config_draft",
    "config_operation",
    "config_version",
    "context",
    "definition",
    "difference",
    "effective",
    "evaluation",
    "flag",
    "flag_change",
    "flag_filter",
    "flag_version",
    "foreign_event",
    "health",
    "instance",
    "instance_change",
    "json_of",
    "json_or_missing",
    "members",
    "metadata_filter",
    "partial_config_draft",
    "ref_of",
    "registration",
    "service_summary",
    "struct_of",
    "time_of",
    "timestamp",
    "value_of",
]
