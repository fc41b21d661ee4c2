"""How a ranking is asked of an OpenAI-compatible server, and read out of what it answers: pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from promptailor.app.backends.permutation_grammar import permutation_grammar
from promptailor.app.backends.ranking_chat import Readout

Grammar = Literal["json_schema", "llguidance"]
"""What holds a structured answer: a schema, which every server knows and which lets a label come twice, or vLLM's
grammar of a permutation."""
GRAMMARS: tuple[Grammar, ...] = get_args(Grammar)

TOP_LOG_PROBS = 20
"""Tokens of which OpenAI and vLLM tell the log-probability, at most."""
RANKING = "ranking"
"""The one key of a structured answer."""
LABELS_HEADER = "X-Candidate-Labels"
"""Tells `promptailor serve-model` which tokens are candidates; a header, because other servers ignore unknown headers
and refuse unknown fields."""


def request_options(readout: Readout, labels: Sequence[str], grammar: Grammar) -> dict[str, Any]:
    """Return what a readout adds to a request, as arguments of the OpenAI client."""
    match readout:
        case "text":
            return {}
        case "structured" if grammar == "llguidance":
            return {"extra_body": {"structured_outputs": {"grammar": permutation_grammar(labels)}}}
        case "structured":
            # In the body as it is: given as an argument, the client would parse the answer itself, and raise where it
            # was cut, though it is paid for.
            return {"extra_body": {"response_format": ranking_format(labels)}}
        case "first_token":
            return {
                "max_tokens": 1,
                "logprobs": True,
                "top_logprobs": TOP_LOG_PROBS,
                "extra_headers": {LABELS_HEADER: json.dumps(list(labels))},
            }


def probe_options(labels: Sequence[str]) -> dict[str, Any]:
    """Return what asks for a ranking by every readout at once."""
    return {
        "max_tokens": 16 * len(labels),
        "logprobs": True,
        "top_logprobs": TOP_LOG_PROBS,
        "extra_body": {"response_format": ranking_format(labels)},
    }


def ranking_format(labels: Sequence[str]) -> dict[str, Any]:
    """Return the `response_format` of a ranking: as many labels as there are candidates.

    Nothing forbids a label twice: OpenAI in strict mode and llguidance refuse a schema with `uniqueItems`, xgrammar
    ignores it. The parser repairs and reports duplicates, as in any other answer.
    """
    array = {
        "type": "array",
        "items": {"type": "string", "enum": list(labels)},
        "minItems": len(labels),
        "maxItems": len(labels),
    }
    schema = {"type": "object", "properties": {RANKING: array}, "required": [RANKING], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": RANKING, "strict": True, "schema": schema}}


def structured_ranking(text: str, grammar: Grammar) -> list[str] | None:
    """Return the labels of a structured answer; None where it is none."""
    if grammar == "llguidance":
        lines = text.split("\n")
        return lines if all(line.isdecimal() for line in lines) else None
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):  # of a thousand nested brackets
        return None
    labels = answer.get(RANKING) if isinstance(answer, dict) else None
    if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
        return None
    return [str(label) for label in labels]


def label_log_probs(log_probs: Any, labels: Sequence[str]) -> dict[str, float] | None:
    """Read the first token's log-probabilities of the labels that are among the top ones, in label order.

    Tokens that are the same but for space around them are one label. The result is given that the token is one of
    these labels.

    Args:
        log_probs: a choice's `logprobs`, as the server sent it.
        labels: of the candidates.

    Returns:
        None where the server sent no log-probabilities.
    """
    match log_probs:
        case {"content": [{"top_logprobs": [_, *_] as top}, *_]}:
            pass
        case _:
            return None
    mass = dict.fromkeys(labels, 0.0)
    for entry in top:
        match entry:
            case {"token": str(token), "logprob": int() | float() as log_prob} if token.strip() in mass:
                mass[token.strip()] += math.exp(log_prob) if log_prob < 1.0 else 0.0  # else it is none
    seen = {label: value for label, value in mass.items() if value > 0.0}
    total = sum(seen.values())
    return {label: math.log(value / total) for label, value in seen.items()}


def ranking_by(log_probs: Mapping[str, float], labels: Sequence[str]) -> list[str]:
    """Return the labels, best first; ties, and labels without a log-probability at the end, in the order given."""
    return sorted(labels, key=lambda label: -log_probs.get(label, -math.inf))
