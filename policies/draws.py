"""Random draws that depend on what they are for, not on when they happen.

A draw keyed by (seed, user_id, step, ...) is the same for one user alone and inside a batch, in a first run and in
a resumed one, and on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence


def uniform(*key: str | int) -> float:
    """Return a float in [0, 1) that is a function of the key alone."""
    text = "\0".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2.0**56


def draw_distinct(pool: Sequence[str], barred: Container[str], n: int, *key: str | int) -> list[str]:
    """Draw n distinct members of a pool that are not barred, in an order that is itself random.

    The first k of n draws are the draws of k. There must be n to draw, or it does not end.
    """
    drawn: dict[str, None] = {}
    attempt = 0
    while len(drawn) < n:
        member = pool[int(uniform(*key, attempt) * len(pool))]
        if member not in barred:
            drawn.setdefault(member)
        attempt += 1
    return list(drawn)


def sample_index(probabilities: Sequence[float], *key: str | int) -> int:
    """Draw an index by inverse CDF; probabilities must sum to one up to rounding."""
    threshold, total = uniform(*key) * sum(probabilities), 0.0
    for index, probability in enumerate(probabilities):
        total += probability
        if threshold < total:
            return index
    return max(range(len(probabilities)), key=lambda i: probabilities[i])
