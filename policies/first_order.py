"""How far a loss falls if other words stand in a prompt, to first order: PAP-REC's gradient asked of whole sentences.

With g_i the gradient of the listwise loss with respect to the embedding of the i-th token of the present sentence,

    predicted fall = - sum over i of g_i . (e(new token that stands where i does) - e(present token i)),

which is HotFlip's estimate (Ebrahimi et al., 2018) for many tokens at once. It is crude for sentences: they are far
from each other in the space of embeddings, their lengths differ, and tokens act together. Where lengths differ, the new
sentence is stretched over the present one's places; positions of everything behind it are taken to stay. So it orders
sentences at best, and is held against the measured fall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptailor.policies.white_box import Floats


def predicted_fall(gradients: Floats, present: Floats, new: Floats) -> Floats:
    """Return by how much each prompt's loss is predicted to fall, shape (prompts,).

    Args:
        gradients: with respect to the present tokens' embeddings, shape (prompts, tokens, dim).
        present: their embeddings, shape (tokens, dim).
        new: embeddings of the tokens that would stand there, shape (new tokens, dim); at least one.
    """
    fall: Floats = -np.einsum("ptd,td->p", gradients, new[_stretched(len(new), len(present))] - present)
    return fall


def _stretched(n_new: int, n_present: int) -> NDArray[np.int64]:
    """Return which new token stands at each present one's place."""
    return (2 * np.arange(n_present) + 1) * n_new // (2 * n_present)


def span_beside(whole: Sequence[int], without: Sequence[int]) -> tuple[int, int]:
    """Return where the first tokens have something that the second have not: start and stop.

    Args:
        whole: a prompt's tokens.
        without: the same prompt's, with a part left out.
    """
    shorter = min(len(whole), len(without))
    start = next((n for n in range(shorter) if whole[n] != without[n]), shorter)
    most = shorter - start
    kept = next((n for n in range(most) if whole[-1 - n] != without[-1 - n]), most)
    return start, len(whole) - kept
