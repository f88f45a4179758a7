"""The index finds exactly the watchers whose selectors match."""

from hypothesis import given
from hypothesis import strategies as st

from configsvc.app.watch.deliveries import Deliveries
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.watcher import Watcher
from configsvc.app.watch.watcher_index import WatcherIndex
from configsvc.domain.records import Kind, Ref

KINDS, ENVIRONMENTS, SERVICES = st.sampled_from(list(Kind)), st.sampled_from(["", "test"]), st.sampled_from(["", "svc"])
KEYS = st.text("ab", max_size=3)
SELECTORS = st.builds(
    Selector, KINDS, ENVIRONMENTS, st.none() | SERVICES, st.none() | st.frozensets(KEYS, max_size=4), KEYS
)
REFS = st.builds(Ref, KINDS, ENVIRONMENTS, SERVICES, KEYS)


def watcher(selector: Selector) -> Watcher:
    return Watcher(selector, max_changes=1, max_bytes=1, applied=0, is_resuming=False, deliveries=Deliveries())


@given(selectors=st.lists(st.tuples(SELECTORS, st.booleans()), max_size=20), refs=st.lists(REFS, max_size=10))
def test_index_finds_the_watchers_whose_selectors_match(
    selectors: list[tuple[Selector, bool]], refs: list[Ref]
) -> None:
    index = WatcherIndex()
    watchers = [(watcher(selector), leaves) for selector, leaves in selectors]
    for one, _ in watchers:
        index.add(one)
    for one, leaves in watchers:
        if leaves:
            index.remove(one)
    for ref in refs:
        found = list(index.of_record(ref))
        assert set(found) == {one for one, leaves in watchers if not leaves and one.selector.matches(ref)}
        assert len(found) == len(set(found))


@given(selectors=st.lists(SELECTORS, max_size=20))
def test_index_without_watchers_is_empty(selectors: list[Selector]) -> None:
    index = WatcherIndex()
    watchers = [watcher(selector) for selector in selectors]
    for one in watchers:
        index.add(one)
    for one in watchers:
        index.remove(one)
    assert not index._by_key
    assert not index._by_prefix


def test_many_prefixes_cost_no_comparison_each() -> None:
    """More prefixes than the key has characters: the prefixes of the key are looked up instead."""
    index = WatcherIndex()
    watchers = {prefix: watcher(Selector(Kind.CONFIG, "test", prefix=prefix)) for prefix in ("", "a", "ab", "abc", "b")}
    watchers |= {str(n): watcher(Selector(Kind.CONFIG, "test", prefix=str(n))) for n in range(100)}
    for one in watchers.values():
        index.add(one)
    found = list(index.of_record(Ref(Kind.CONFIG, "test", "svc", "ab")))
    assert found == [watchers[""], watchers["a"], watchers["ab"]]


def test_watchers_of_a_service_are_found_by_its_name() -> None:
    index = WatcherIndex()
    one, other = (watcher(Selector(Kind.INSTANCE, "", name)) for name in ("one", "other"))
    index.add(one)
    index.add(other)
    assert list(index.of_service(Kind.INSTANCE, "", "one")) == [one]
