"""The folder of an extension: its settings, its answers, what was proposed, and the catalogue that came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import ResponseStore
from promptailor.app.run_folder import CONFIG
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals.records import write_text
from promptailor.policies.manual import SinglePrompt
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.patterns import SENTENCE_PATTERNS, PromptSpec, SentencePattern, load_catalogue
from promptailor.prompts.proposals import Proposal

PROPOSALS = "proposals.yaml"
CATALOGUE = "catalogue.yaml"

CRITIC, PARAPHRASE = "critic", "paraphrase"
"""`source`: a critic that sees rankings, or rewrites of the sentences there are; anything else is a file."""

_HEAD = """# Sentences that were proposed for the catalogue. To decide yourself, write `admit: true` or `admit: false`
# behind a sentence and run `promptailor sentences admit --gate review`.
"""


class SentencesConfig(BaseModel):
    """Everything that proposals depend on; `config.json` of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    model: str
    """The recommender."""
    critic: str | None = None
    """Who writes sentences; the recommender where empty."""
    source: str = CRITIC
    """`critic`, `paraphrase`, or a YAML file of sentences by pattern."""
    catalogue: Path | None = None
    """What is extended; None for the built-in one."""
    prompt: Path | None = None
    """Run folder of the single prompt that sentences are tried in; None for the manual one."""
    users: int = Field(200, ge=1)
    """Training users: who gives feedback, and of whom it is learned whom a sentence suits."""
    batch: int = Field(10, ge=1)
    """Users per critique."""
    proposals: int = Field(12, ge=1)
    """At most so many sentences."""
    per_critique: int = Field(2, ge=1)
    """Sentences asked for at once."""
    patterns: tuple[SentencePattern, ...] = SENTENCE_PATTERNS
    seed: int = 0
    n_candidates: int = 10
    budget: str | None = None

    @classmethod
    def parse_patterns(cls, text: str | None) -> tuple[SentencePattern, ...]:
        """Read `--patterns`; an unknown one is a `SpecError` that lists the known ones."""
        names = [name.strip().replace("-", "_") for name in (text or "").split(",") if name.strip()]
        if unknown := [name for name in names if name not in SENTENCE_PATTERNS]:
            raise SpecError(f"--patterns {unknown[0]!r}: has no sentences; there are {', '.join(SENTENCE_PATTERNS)}")
        return tuple(p for p in SENTENCE_PATTERNS if not names or p in names)

    def workspace(self, store: ResponseStore, budget: Budget) -> Workspace:
        """Return what the proposals are made and tried with."""
        return Workspace(
            settings=Settings(),
            dataset_name=self.dataset,
            model=self.model,
            refiner=self.critic or self.model,
            seed=self.seed,
            catalogue=load_catalogue(self.catalogue),
            store=store,
            budget=budget,
        )

    def frame(self, workspace: Workspace) -> PromptSpec:
        """Return the prompt that sentences are put into.

        Raises:
            InputError: `prompt` names a policy that is not one catalogue prompt for everybody.
        """
        if self.prompt is None:
            return workspace.catalogue.manual_prompt
        policy = workspace.load_policy(self.prompt)
        if not isinstance(policy, SinglePrompt) or policy.sentences:
            raise InputError(f"--prompt {self.prompt}: holds no single catalogue prompt; train enumeration and name it")
        return policy.spec


class ProposalFile(Model):
    """`proposals.yaml`."""

    schema_version: Literal[1] = 1
    catalogue_digest: str
    """Of the catalogue that they are proposed for."""
    critiques: int = 0
    """Answers of the critic that were read."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Sentences that a guard kept out, by its reason."""
    proposals: tuple[Proposal, ...] = ()

    @property
    def n_dropped(self) -> int:
        """Sentences that a guard kept out."""
        return sum(self.dropped.values())


def read_config(folder: Path) -> SentencesConfig:
    """Read what `propose` was run with; `InputError` where it was not."""
    path = folder / CONFIG
    try:
        return SentencesConfig.model_validate_json(path.read_bytes())
    except OSError:
        raise InputError(f"{path}: no such file; run `promptailor sentences propose --out {folder}` first") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}; propose again into another folder") from None


def read_proposals(folder: Path) -> ProposalFile:
    """Read the proposals, a person's decisions among them; `InputError` names what is wrong and where."""
    path = folder / PROPOSALS
    try:
        return ProposalFile.model_validate(_read_yaml(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `promptailor sentences propose --out {folder}` first") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}; repair the file, or propose again") from None


def write_proposals(folder: Path, file: ProposalFile) -> None:
    """Write the proposals for a person to read and to decide on."""
    content = file.model_dump(mode="json")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    write_text(folder / PROPOSALS, _HEAD + text)


def with_decisions(new: ProposalFile, folder: Path) -> ProposalFile:
    """Return proposals with the decisions that the folder's file has for them."""
    if not (folder / PROPOSALS).is_file():
        return new
    decided = {proposal.id: proposal.admit for proposal in read_proposals(folder).proposals}
    kept = tuple(p.model_copy(update={"admit": decided.get(p.id)}) for p in new.proposals)
    return new.model_copy(update={"proposals": kept})


def read_sentences(path: Path) -> dict[SentencePattern, list[str]]:
    """Read a person's own proposals: sentences by pattern; `InputError` names what is wrong."""
    try:
        content = _read_yaml(path)
    except OSError as error:
        raise InputError(f"--from {path}: {error.strerror}; write critic, paraphrase or a YAML file") from None
    if not isinstance(content, Mapping) or (unknown := set(content) - set(SENTENCE_PATTERNS)):
        known = ", ".join(SENTENCE_PATTERNS)
        what = f"{sorted(map(str, unknown))[0]!r} is no pattern" if isinstance(content, Mapping) else "not a mapping"
        raise InputError(f"--from {path}: {what}; write lists of sentences under {known}")
    for pattern, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"--from {path}: {pattern}: write a list of sentences")
    return {pattern: content[pattern] for pattern in SENTENCE_PATTERNS if pattern in content}


def count(reasons: Sequence[str]) -> dict[str, int]:
    """Count reasons, in alphabetical order."""
    return dict(sorted(Counter(reasons).items()))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}; repair the file") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
