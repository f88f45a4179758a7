"""Makes a producer unusable with librdkafka's own test function, like a broker that has lost the producer's state.

The Python client does not export that function. A `Producer` holds librdkafka's handle directly after the
Python object header (`Handle` in confluent_kafka.h). The name of the handle proves that it is one.
"""

import ctypes
from pathlib import Path

import confluent_kafka
from confluent_kafka import KafkaError, Producer


def _library() -> ctypes.CDLL:
    """The library that the client has loaded, from the folder beside it in its wheel."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "librdkafka" in line:
            return ctypes.CDLL(line.split(maxsplit=5)[5])
    raise AssertionError(f"confluent_kafka {confluent_kafka.version()} has loaded no librdkafka")


def poison(producer: Producer) -> None:
    """Triggers a fatal error: all queued messages fail, and the producer accepts no more."""
    library = _library()
    library.rd_kafka_name.restype = ctypes.c_char_p
    library.rd_kafka_test_fatal_error.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    assert library.rd_kafka_name(handle).startswith(b"configsvc#producer-")
    code = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert library.rd_kafka_test_fatal_error(handle, code, b"poisoned by a test") == 0
