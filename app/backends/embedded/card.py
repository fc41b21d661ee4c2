"""The model card: how an embedded model was made, and what it is not."""

from __future__ import annotations

from promptailor.app.backends.embedded.folder import LmManifest

_TEXT = """\
# Promptailor embedded model: {dataset}

A causal language model of the Llama architecture ({n_parameters:,} parameters, {hidden_size} wide, {n_layers} layers),
trained from scratch by `promptailor lm train` in {minutes} minutes on a CPU. It ranks the items of one data set by
following the prompts of Promptailor's pattern catalogue.

**Trained on** the training part of `{dataset}` (digest `{dataset_digest}`): every user's interactions but the last two.
Nothing else: no other text, no other model's weights.

**How.** First {title_steps} steps of next-title modelling, then {steps} steps of instruction tuning, {batch_size}
examples each, seed {seed}. A ranking prompt shows 0 to 31 interactions of a user up to a random moment, a role, a
reasoning sentence and an output format, each of which is sometimes missing or paraphrased. The order to learn is that
of a simple teacher that the reasoning sentence stands for (next item, popularity, similarity to the latest item, to a
recent window, to the whole history, to the nearest item, collaborative, categories, a blend); half of the time one to
three items that the user really chose next lead it. Three small tasks stand beside: rewrite a sentence, describe an
item, write a user profile. Catalogue digest `{catalogue_digest}`.

**Tokenizer.** One token per title, per catalogue sentence and per word of the prompts, bytes for anything else. It
holds the titles, so it does not ship: it is written from the user's own copy of the data set.

**What it is for.** Showing, on a laptop and in seconds, a recommender to which prompts matter in ways that can be
measured.

**What it is not.** Not a general language model: it understands the catalogue's sentences and their paraphrases, and
knows nothing of an item but who chose it and its categories. It says nothing about how a large model would react to a
prompt. It carries its data set's biases, popularity above all.

**Terms.** Research use, as the data set's own terms say; not under the licence of Promptailor's code.
"""


def model_card(manifest: LmManifest) -> str:
    """Write the card of a trained model."""
    shape = manifest.training
    return _TEXT.format(
        dataset=manifest.dataset,
        n_parameters=manifest.n_parameters,
        hidden_size=shape["hidden_size"],
        n_layers=shape["n_layers"],
        minutes=manifest.minutes,
        dataset_digest=manifest.dataset_digest,
        title_steps=shape["title_steps"],
        steps=shape["steps"],
        batch_size=shape["batch_size"],
        seed=manifest.seed,
        catalogue_digest=manifest.catalogue_digest,
    )
