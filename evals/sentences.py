"""What became of proposed sentences: effects with intervals, and which were admitted; kept beside the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from promptailor.evals.statistics import Estimate
from promptailor.policies.acceptance import Verdict
from promptailor.policies.manual import Stopped
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import PromptSpec, SentencePattern
from promptailor.prompts.proposals import Proposal

LINEAGE_FILE = "lineage.json"
"""In the folder of the extended catalogue."""

RANKING_FILE = "ranking.json"

Gate = Literal["test", "human", "review"]
"""Who admits: the test, a person at the terminal, or a person's decisions in `proposals.yaml`."""


class Admission(Model):
    """One sentence that was tried."""

    proposal: Proposal
    everybody: Verdict
    """Given to all held-out users in place of the present sentence."""
    suited: Verdict
    """As one more sentence that a rule learned on training users chooses from, against the same rule without it."""
    share_suited: float
    """Of the held-out users: for whom that rule takes it."""
    admitted: bool = False


class RankedSentence(Model):
    """What a sentence does to the listwise loss in its pattern's place: foreseen, and measured on the same users."""

    id: str
    pattern: SentencePattern
    text: str
    proposed: bool
    """Whether it is new; the catalogue's own sentences stand beside the proposals, for comparison."""
    predicted: Estimate
    """First-order estimate of how far the loss falls."""
    measured: Estimate
    """How far it really falls."""
    ndcg: Estimate
    """Change of NDCG@10 by the same log-probabilities."""


class SentenceRanking(Model):
    """Sentences by what a white box's gradient foresees: `ranking.json`."""

    schema_version: Literal[1] = 1
    model: str
    n_users: int
    correlation: Estimate
    """Spearman's, between foreseen and measured falls over all sentences; the interval is over users."""
    sentences: tuple[RankedSentence, ...]
    """Best foreseen first."""
    prompts: int
    """Computed for it: one backward pass each for the present sentences, one forward pass each for the others."""


class Extension(Model):
    """Where an extended catalogue comes from: `lineage.json`."""

    schema_version: Literal[1] = 1
    grown_from: str
    """Digest of the catalogue that was extended."""
    digest: str
    """Of the extended one; the same where nothing was admitted."""
    dataset: str
    model: str
    critic: str | None
    """Who wrote the sentences; None where a person did."""
    frame: PromptSpec
    """The prompt that they were tried in."""
    gate: Gate
    alpha: float
    train_users: int
    held_out: int
    samples: int
    critiques: int
    """Answers of the critic that were read."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Sentences that a guard kept out, by its reason."""
    tried: tuple[Admission, ...] = ()
    untried: tuple[str, ...] = ()
    """Ids of sentences that the budget did not reach."""
    stopped: Stopped = "finished"
    llm_calls: int = 0
    """Requests sent, those of proposing and ranking included."""
    command: str | None = None
    commit: str | None = None

    @property
    def admitted(self) -> tuple[Admission, ...]:
        """The sentences that now stand in the catalogue."""
        return tuple(tried for tried in self.tried if tried.admitted)


def read_ranking(path: Path) -> SentenceRanking:
    """Read a ranking; `InputError` where it is none."""
    try:
        return SentenceRanking.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run `promptailor sentences rank`") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; rank again") from None


def read_extension(path: Path) -> Extension:
    """Read where an extended catalogue comes from; `InputError` where the file does not say."""
    try:
        return Extension.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run `promptailor sentences admit`") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; admit again") from None
