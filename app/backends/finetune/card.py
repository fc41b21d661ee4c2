"""The model card of an adapter: how it was made, and what it is not."""

from __future__ import annotations

import json
from dataclasses import dataclass

from promptailor.app.backends.finetune.folder import FinetuneManifest
from promptailor.evals.statistics import Estimate
from promptailor.prompts.patterns import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What a task's card says of its own."""

    purpose: str
    examples: str
    measured: str
    measure: str


_TEXT = """\
---
base_model: {base_yaml}
library_name: peft
---

# {base} fine-tuned {purpose} `{dataset}`

A LoRA adapter (rank {rank}, alpha {alpha}, {n_parameters:,} parameters) made by `promptailor lm finetune`.
`promptailor` reads it as `transformers:{base}?adapter=FOLDER`; peft and vLLM load it as it is.

**Base.** `{base}`, fingerprint `{base_fingerprint}`.

**Trained on** the training part of `{dataset}` (digest `{dataset_digest}`): the interactions of {n_users} users but the
last two of each. {examples}, loss on the answers only, learning rate {learning_rate}, seed {seed}.

**Measured** on the second-to-last items of {n_validation} validation users, {measured}: {measure} {before} without the
adapter, {after} with it, gain {gain} (95 % intervals, users resampled). Test users were not asked.

**What it is not.** The answer taught is the same whatever the reasoning sentence says, so prompts matter less to it
than to its base. It knows the items of one data set, and carries that data set's biases, popularity above all.

**Terms.** Those of the base model and of the data set.
"""

_RANKING = _Words(
    purpose="to rank",
    examples="""\
A prompt shows a user's history up to a random moment, of random length, 4 to 20 candidates, and
random sentences of the pattern catalogue (digest `{catalogue_digest}`). The answer begins with what the user chose
next; the other candidates, which the user's training part does not touch, follow by popularity, in the format that the
prompt asks for. {steps} steps of {batch_size} examples""",
    measured="""\
ten candidates, the manual prompt, ranked
by the first token of the answer""",
    measure="NDCG@10",
)
_RATING = _Words(
    purpose="to predict ratings of",
    examples="""\
A prompt shows a user's rated history up to a random moment, of random length, the item rated
next, and random sentences of the catalogue for ratings (digest `{catalogue_digest}`). The answer is the rating alone.
{steps} steps of {batch_size} examples""",
    measured="""\
the manual prompt, the expected
rating of the answer's first token""",
    measure="1 - |error| / 4",
)
_BY_TASK: dict[Task, _Words] = {"ranking": _RANKING, "rating": _RATING}


def model_card(manifest: FinetuneManifest) -> str:
    """Write the card of a fine-tuned adapter."""
    settings, measured = manifest.settings, manifest.validation
    words = _BY_TASK[settings.task]
    return _TEXT.format(
        base_yaml=json.dumps(settings.base),
        n_parameters=manifest.n_parameters,
        n_users=manifest.n_users,
        n_validation=len(measured.user_ids),
        before=_interval(measured.before),
        after=_interval(measured.after),
        gain=_interval(measured.gain),
        purpose=words.purpose,
        examples=words.examples.format(**settings.model_dump()),
        measured=words.measured,
        measure=words.measure,
        **settings.model_dump(),
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
