"""Versions of a record and the audit log: pages, filters, and what compaction leaves."""

import pytest

from configsvc.app.changelog.audit import AuditFilter, AuditLog
from configsvc.app.changelog.history import VersionHistory
from configsvc.domain.json_values import ABSENT
from configsvc.domain.limits import Limits
from configsvc.domain.pages import PageRequest
from configsvc.errors import FailedPrecondition, InvalidInput, NotFound
from configsvc.storage.port import EXAMINED_CHANGES, RetentionPolicy, Storage
from tests.app.replica import config, write

A, B = config("a"), config("b")


@pytest.fixture
def versions(storage: Storage) -> VersionHistory:
    return VersionHistory(storage, storage)


@pytest.fixture
def audit_log(storage: Storage) -> AuditLog:
    return AuditLog(history=storage, limits=Limits())


async def test_pages_of_versions_continue_where_the_last_one_ended(storage: Storage, versions: VersionHistory) -> None:
    for number in range(5):
        await write(storage, (A, number), (B, number))
    pages, token = [], ""
    while True:
        found = await versions.page(A, 2, token)
        pages.append([change.version for change in found.page.items])
        token = found.page.next_page_token
        if not token:
            break
    assert pages == [[5, 4], [3, 2], [1]]
    assert found.compacted_through == 0


async def test_token_of_another_record_is_refused(storage: Storage, versions: VersionHistory) -> None:
    for number in range(3):
        await write(storage, (A, number), (B, number))
    token = (await versions.page(A, 2, "")).page.next_page_token
    with pytest.raises(InvalidInput) as refused:
        await versions.page(B, 2, token)
    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_diff_compares_versions_and_a_delete_has_no_content(storage: Storage, versions: VersionHistory) -> None:
    for value in (1, 2, None):
        await write(storage, (A, value))
    diff = await versions.diff(A, 1, 2, lambda body: body["value"])
    assert [(one.op, one.before, one.after) for one in diff.differences] == [("replace", 1, 2)]
    newest = await versions.diff(A, 2, 0, lambda body: body["value"])
    assert (newest.newer.version, newest.before, newest.after) == (3, 2, ABSENT)
    with pytest.raises(FailedPrecondition) as refused:
        await versions.state(A, 3)
    assert refused.value.reason == "VERSION_IS_DELETE"
    with pytest.raises(NotFound) as missing:
        await versions.version(A, 4)
    assert missing.value.reason == "VERSION_NOT_FOUND"


async def test_current_version_outlives_the_compaction_of_its_change(
    storage: Storage, versions: VersionHistory
) -> None:
    await write(storage, (A, "old"))
    await write(storage, (A, "now"))
    for number in range(3):
        await write(storage, (B, number))
    await storage.compact(RetentionPolicy(2))
    found = await versions.page(A, 10, "")
    assert [(change.version, change.after) for change in found.page.items] == [(2, {"value": "now"})]
    assert found.compacted_through == 1
    assert await versions.state(A, 2) == {"value": "now"}
    with pytest.raises(NotFound) as compacted:
        await versions.version(A, 1)
    assert compacted.value.reason == "VERSION_COMPACTED"
    metadata = compacted.value.metadata
    assert (metadata["oldest_version"], metadata["current_version"]) == ("2", "2")
    assert "versions 2 to 2 are left" in compacted.value.message
    assert (await versions.page(B, 10, "")).compacted_through == 1


async def test_audit_filters_must_all_match(storage: Storage, audit_log: AuditLog) -> None:
    shared, staging = config("a", service=""), config("a", environment="staging")
    for ref in (A, B, shared, staging):
        await write(storage, (ref, 1))
    cases = {
        AuditFilter(key="a"): [4, 3, 1],
        AuditFilter(key="a", environment="test"): [3, 1],
        AuditFilter(service_name=""): [3],
        AuditFilter(service_name="svc", kind="config"): [4, 2, 1],
        AuditFilter(after_revision=1, until_revision=3): [3, 2],
        AuditFilter(actor="nobody"): [],
        AuditFilter(kind="flag"): [],
    }
    for selected, revisions in cases.items():
        found = await audit_log.search(selected, PageRequest())
        assert [change.revision for change in found.page.items] == revisions, selected


async def test_audit_token_continues_the_same_filter_only(storage: Storage, audit_log: AuditLog) -> None:
    for number in range(3):
        await write(storage, (A, number))
    first = await audit_log.search(AuditFilter(key="a"), PageRequest(2))
    token = first.page.next_page_token
    rest = await audit_log.search(AuditFilter(key="a"), PageRequest(2, token))
    assert [change.revision for change in (*first.page.items, *rest.page.items)] == [3, 2, 1]
    with pytest.raises(InvalidInput) as refused:
        await audit_log.search(AuditFilter(key="b"), PageRequest(2, token))
    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_audit_page_may_be_empty_and_still_be_followed_by_another(storage: Storage, audit_log: AuditLog) -> None:
    await write(storage, (A, "rare"))
    for batch in range(3):
        await write(storage, *((config(f"{batch}-{number}"), number) for number in range(EXAMINED_CHANGES // 2)))
    selected = AuditFilter(key="a")
    first = await audit_log.search(selected, PageRequest())
    assert first.page.items == ()
    assert first.page.next_page_token
    last = await audit_log.search(selected, PageRequest(0, first.page.next_page_token))
    assert [change.revision for change in last.page.items] == [1]
    assert not last.page.next_page_token


async def test_audit_names_every_filter_that_nothing_can_match(audit_log: AuditLog) -> None:
    selected = AuditFilter(kind="other", after_revision=-1, actor="x" * 10_000)
    with pytest.raises(InvalidInput) as refused:
        await audit_log.search(selected, PageRequest(-1))
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["kind", "after_revision", "actor", "page_size"]
