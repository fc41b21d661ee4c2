"""The grammar of a permutation of labels, in the dialect of llguidance, which is one of vLLM's own back ends.

Its one parameter is the set of labels named so far, a bit each: the permutations of 50 labels take 50 alternatives
where a plain grammar takes 2^50 rules. A JSON schema cannot ask for one at all, because no engine holds an answer to
`uniqueItems`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence


def permutation_grammar(labels: Sequence[str]) -> str:
    """Write the grammar of every order of at most 64 labels, one per line; bit n of its parameter: label n is named."""
    whole = f"is_ones([0:{len(labels)}])"
    choices = "\n  | ".join(
        f"{json.dumps(label)} rest::set_bit({n}) %if bit_clear({n})" for n, label in enumerate(labels)
    )
    return f'start: label::0\nlabel::_: {choices}\nrest::_: "" %if {whole}\n  | "\\n" label::_ %if not({whole})\n'
