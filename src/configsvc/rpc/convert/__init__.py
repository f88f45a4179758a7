"""Between messages and the domain's values."""

from configsvc.rpc.convert.changes import applied, audit, changed_fields, changed_flag_fields, written
from configsvc.rpc.convert.configs import config, config_change, config_version, difference, effective
from configsvc.rpc.convert.flags import evaluation, flag, flag_change, flag_message, flag_version
from configsvc.rpc.convert.instances import check_result, instance, registration
from configsvc.rpc.convert.members import definition, members
from configsvc.rpc.convert.values import json_of, json_or_missing, optional, struct_of, time_of, timestamp, value_of

__all__ = [
    "applied",
    "audit",
    "changed_fields",
    "changed_flag_fields",
    "check_result",
    "config",
    "config_change",
    "config_version",
    "definition",
    "difference",
    "effective",
    "evaluation",
    "flag",
    "flag_change",
    "flag_message",
    "flag_version",
    "instance",
    "json_of",
    "json_or_missing",
    "members",
    "optional",
    "registration",
    "struct_of",
    "time_of",
    "timestamp",
    "value_of",
    "written",
]
