"""Which candidates stand in which window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promptailor.prompts.windows import windows


@given(n=st.integers(1, 400), size=st.integers(2, 60))
def test_windows_cover_everything_and_end_at_the_front(n: int, size: int) -> None:
    parts = windows(n, size)
    assert set().union(*(range(*part) for part in parts)) == set(range(n))
    assert all(stop - start <= size for start, stop in parts)
    assert parts[-1][0] == 0
    assert len(parts) <= n, "the bound that `recursion_limit` counts on"


@given(n=st.integers(1, 400), size=st.integers(2, 60))
def test_half_of_each_window_moves_on_into_the_next(n: int, size: int) -> None:
    for (start, _), (_, stop) in zip(windows(n, size), windows(n, size)[1:], strict=False):
        assert stop - start >= size // 2


@given(n=st.integers(1, 400))
def test_without_a_limit_there_is_one_window(n: int) -> None:
    assert windows(n, None) == windows(n, n) == ((0, n),)
