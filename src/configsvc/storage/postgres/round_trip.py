"""Runs several statements in one round trip, with one system call that sends them all.

psycopg's own pipeline sends each statement when it is executed. For the eight small statements of a transaction, these
calls took more time than the server did. Here all statements are handed to libpq first, and are then sent together.

Each statement is prepared when a connection runs it for the first time. Arrays are sent in PostgreSQL's binary format:
the text format would need a search for special characters in each element.
"""

import select
import struct
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, abc, errors
from psycopg.adapt import Transformer
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from configsvc.storage.sql.reads import Rows
from configsvc.storage.sql.statements import Statement

_BIGINT, _TEXT = 20, 25
"""The types' numbers in PostgreSQL's catalogue."""

_NULL = b"\xff\xff\xff\xff"
_EIGHT_BYTES = b"\x00\x00\x00\x08"
_LENGTH = struct.Struct("!i").pack
# Dimensions, whether there are nulls (the server ignores it), element type, number of elements, lower bound.
_ARRAY_HEAD = struct.Struct("!iiiii").pack


class RoundTripConnection(AsyncConnection[tuple[Any, ...]]):
    """A connection that can also run several statements in one round trip."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._prepared_names: dict[str, bytes] = {}
        self._prepared_count = 0

    async def run(self, statements: Sequence[Statement]) -> list[Rows]:
        """Runs the statements in their order; returns the rows of each.

        If one fails, the server skips the rest, and its error is raised.
        """
        async with self.lock:
            results = await self.wait(self._round_trip(statements))
        transformer = Transformer(self)
        return [_rows(transformer, result) for result in results]

    def has_unread_input(self) -> bool:
        """Whether the server has sent something since the last statement: most likely that it ends the connection."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _round_trip(self, statements: Sequence[Statement]) -> abc.PQGen[list[PGresult]]:
        # First, because it raises if a text is not Unicode.
        encoded = [[_encoded(value) for value in statement.parameters] for statement in statements]
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        try:
            preparing: dict[str, bytes] = {}
            # Whether each result in turn is that of a statement, and not of its preparation.
            is_answer: list[bool] = []
            for statement, parameters in zip(statements, encoded, strict=True):
                name = self._prepared_names.get(statement.sql) or preparing.get(statement.sql)
                if name is None:
                    # No name is used twice: the server may have prepared a statement in spite of a later error.
                    self._prepared_count += 1
                    name = preparing[statement.sql] = b"run_%d" % self._prepared_count
                    pgconn.send_prepare(name, _numbered(statement.sql))
                    is_answer.append(False)
                values, formats = [value for value, _ in parameters], [form for _, form in parameters]
                pgconn.send_query_prepared(name, values, formats)
                is_answer.append(True)
            pgconn.pipeline_sync()
            yield from send(pgconn)
            results = yield from _fetch_all(pgconn)
            pgconn.exit_pipeline_mode()
        except BaseException:
            # Nobody knows which answers are still to come.
            pgconn.finish()
            raise
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        self._prepared_names.update(preparing)
        return [result for result, answers in zip(results, is_answer, strict=True) if answers]


def _fetch_all(pgconn: Any) -> abc.PQGen[list[PGresult]]:
    """The results up to the end of the pipeline."""
    results: list[PGresult] = []
    while True:
        fetched = yield from fetch_many(pgconn)
        if fetched and fetched[0].status == ExecStatus.PIPELINE_SYNC:
            return results
        results += fetched


def _rows(transformer: abc.Transformer, result: PGresult) -> Rows:
    if result.status != ExecStatus.TUPLES_OK:
        return ()
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _numbered(sql: str) -> bytes:
    """The statement with PostgreSQL's own placeholders."""
    first, *others = sql.split("?")
    return (first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))).encode()


def _encoded(value: Any) -> tuple[bytes | None, Format]:
    """A parameter: a number, a text, None, a list of integers (`bigint[]`), or a list of texts and None (`text[]`)."""
    if isinstance(value, list):
        # In the binary format, an empty array would have to name its type.
        return (_array(value), Format.BINARY) if value else (b"{}", Format.TEXT)
    if isinstance(value, str):
        # In the text format, a text would end at a NUL character.
        return value.encode(), Format.BINARY
    return None if value is None else str(value).encode(), Format.TEXT


def _array(values: list[Any]) -> bytes:
    if isinstance(values[0], int):
        numbers = [_EIGHT_BYTES + value.to_bytes(8, "big", signed=True) for value in values]
        return _ARRAY_HEAD(1, 0, _BIGINT, len(values), 1) + b"".join(numbers)
    parts = [_ARRAY_HEAD(1, 0, _TEXT, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            text = value.encode()
            parts += (_LENGTH(len(text)), text)
    return b"".join(parts)
