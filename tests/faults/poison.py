"""Makes a producer unusable, as a broker does that has lost what it knew of it: by librdkafka's own test function.

The Python client does not show that function. A `Producer` holds librdkafka's handle right behind the head of every
Python object (`Handle` in confluent_kafka.h); the handle's name says that it is one.
"""

import ctypes
from pathlib import Path

import confluent_kafka
from confluent_kafka import KafkaError, Producer


def _library() -> ctypes.CDLL:
    """The very library that the client has loaded, which lies in a folder of its wheel beside it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "librdkafka" in line:
            return ctypes.CDLL(line.split(maxsplit=5)[5])
    raise AssertionError(f"confluent_kafka {confluent_kafka.version()} has loaded no librdkafka")


def poison(producer: Producer) -> None:
    """A fatal error: whatever the producer holds fails, and it takes nothing any more."""
    library = _library()
    library.rd_kafka_name.restype = ctypes.c_char_p
    library.rd_kafka_test_fatal_error.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    assert library.rd_kafka_name(handle).startswith(b"configsvc#producer-")
    code = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert library.rd_kafka_test_fatal_error(handle, code, b"poisoned by a test") == 0
