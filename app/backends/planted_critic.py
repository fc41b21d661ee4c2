"""The simulated critic of the planted worlds: it proposes sentences that the world knows, among noise.

A catalogue that lacks one of the world's sentences gets it back from this critic, if whoever asks can tell it from the
rest: from sentences that the catalogue has already, and from remains of sentences that mean nothing to the world.
"""

from __future__ import annotations

import random

from promptailor.prompts.patterns import Catalogue, SentencePattern

KEPT_OF_NOISE = 0.2
"""Share of a sentence's words that remain in noise: mostly too few to be recognised."""


def write_critique(pattern: SentencePattern, catalogue: Catalogue, rng: random.Random) -> str:
    """Answer a critic's question: a sentence of the world, and what remains of another."""
    sentences = [sentence.text for sentence in catalogue.sentences(pattern)]
    known, words = rng.choice(sentences), rng.choice(sentences).split()
    kept = [word for word in words if rng.random() < KEPT_OF_NOISE or "{" in word]
    lines = [known, " ".join(kept)]
    rng.shuffle(lines)
    return "\n".join(["Feedback: the simulated critic draws by chance.", *(f"Sentence: {line}" for line in lines)])
