"""Every run setting, defined once: CLI flags, the Studio form and library code all read this class."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from promptailor.policies.fusion import FusionKind
from promptailor.prompts.llm import Split

MOST_STEPS = 50


class Context(BaseModel):
    """How requests are served: which policy writes the prompt, how often the model is asked, what is drawn."""

    # Scalars and names only; the objects they name come in through `Resources`.
    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = Field("manual", description="Which policy writes the prompt: manual, or the name of a loaded policy.")
    n_steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="Calls per request; empty takes the number the policy was selected with."
    )
    fusion: FusionKind = Field(
        "last", description="How the steps' rankings become one: the last (as in the paper), rrf, or learned weights."
    )
    permutations: int | None = Field(
        None,
        ge=1,
        le=50,
        description="Shuffled copies of each prompt, whose rankings are fused: no candidate gains by its place; "
        "empty takes the number the policy was trained with.",
    )
    refine: bool = Field(False, description="RPP+: let the refiner model rewrite the chosen sentences.")
    review: bool = Field(
        False, description="Stop before each prompt is sent, so that a person can read it and put in other sentences."
    )
    explore: bool = Field(False, description="Sample the agents' actions instead of taking the most probable ones.")
    window: int | None = Field(
        None,
        ge=2,
        description="Candidates per prompt at most, more are ranked in sliding windows; empty takes the model's limit.",
    )
    seed: int = Field(0, ge=0, description="Keys every random draw, the order candidates are shown in included.")
    split: Split = Field("serve", description="Which part of the data a call belongs to; part of the cache key.")
