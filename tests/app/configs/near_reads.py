"""What tests of the near cache read."""

from configsvc.domain.records import Ref, View
from tests.app.replica import config

A, B, C = config("a"), config("b"), config("c")


def value_of(view: View, ref: Ref) -> object:
    record = view.get(ref)
    return None if record is None else record.body["value"]
