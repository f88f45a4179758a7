"""JSON values of every kind, as hypothesis strategies."""

from hypothesis import strategies as st

LARGEST_EXACT_INTEGER = 2**53 - 1
NUMBERS = st.one_of(
    st.integers(-LARGEST_EXACT_INTEGER, LARGEST_EXACT_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, True, False, None, "", "1", 2**53, 1e16, 1e300]),
)
# Long enough to be converted as a whole; some end with an item that can't be.
LISTS = st.builds(lambda items, times, last: [*items * times, *last], st.lists(NUMBERS, min_size=1, max_size=8),
                  st.integers(1, 40), st.lists(NUMBERS, max_size=1))  # fmt: skip
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=8), LISTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
