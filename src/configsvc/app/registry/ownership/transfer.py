"""Changes of owner: each is a compare-and-set on owner and generation, inside the store's transaction."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from configsvc.app.registry.registrations import Registrations
from configsvc.domain.records import Action, Mutation, Record, View
from configsvc.domain.registrations import updated

# Transfers under way at the same time. They share transactions.
CONCURRENT_TRANSFERS = 128


@dataclass(frozen=True, slots=True)
class Transfer:
    """`new_owner` is to become the owner, if the owner is still that of `record`."""

    record: Record
    new_owner: str
    reason: str


async def transfer_all(registrations: Registrations, transfers: Iterable[Transfer]) -> None:
    """Does all of them, some at a time. Raises the first error of the first batch with one."""
    waiting = iter(transfers)
    while batch := tuple(itertools.islice(waiting, CONCURRENT_TRANSFERS)):
        work = (_transfer(registrations, transfer) for transfer in batch)
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


async def _transfer(registrations: Registrations, transfer: Transfer) -> None:
    record = transfer.record
    expected = (record.body["owner"], record.body["generation"])
    winners: list[Record] = []

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(record.ref)
        if current is None:
            return ()
        if (current.body["owner"], current.body["generation"]) != expected:
            winners.append(current)
            return ()
        return (updated(current, Action.UPDATE, owner=transfer.new_owner, generation=expected[1] + 1),)

    await registrations.write_as_service(record.ref, "registry", transfer.reason, decide)
    for current in winners:
        # Another replica was faster. The log will say so, too.
        registrations.merge(current)
