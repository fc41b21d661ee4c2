"""Sliding windows: more candidates than one prompt can hold are ranked part by part, from the back to the front.

The best of each window move on into the next, which overlaps it by half, so the last window orders the best of all
(Sun et al. 2023, "Is ChatGPT good at search?", with half a window as the stride).
"""

from __future__ import annotations


def windows(n_candidates: int, size: int | None) -> tuple[tuple[int, int], ...]:
    """Return (start, stop) of each window in the order they are ranked; the last one starts at 0.

    Args:
        n_candidates: how many there are.
        size: candidates per prompt at most, two or more; None for no limit.
    """
    if size is None or n_candidates <= size:
        return ((0, n_candidates),)
    stride = max(1, size // 2)
    starts = range(n_candidates - size, 0, -stride)
    return (*((start, start + size) for start in starts), (0, size))
