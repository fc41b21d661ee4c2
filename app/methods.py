"""The method strings of `evaluate`: `NAME[@VARIANT][=FOLDER][?fusion=rrf&n_steps=3]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from pydantic import ValidationError

from promptailor.app.wiring import Workspace
from promptailor.evals.baselines.base import Method
from promptailor.evals.baselines.registry import CLASSIC
from promptailor.evals.methods import GraphMethod
from promptailor.graph.context import Context
from promptailor.policies.base import PromptPolicy
from promptailor.prompts.errors import SpecError

SEARCHES = ("enumeration", "random-search")
"""Searched on training users on the spot where no folder is given."""
PER_USER = ("rpp", "rpp+", "bandit")
"""Policies that choose for each user; the first of them in a run is the one its gain decomposition is about."""
LEARNED = (*PER_USER, *SEARCHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A parsed method string."""

    name: str
    """Kind of method, without the variant."""
    label: str
    """How the method is called in records: the name with its variant."""
    folder: Path | None = None
    """Run folder of a learned method."""
    serving: Mapping[str, str] = field(default_factory=dict)
    """Settings of `Context` that differ from the policy's own."""

    @classmethod
    def parse(cls, text: str) -> MethodSpec:
        """Read one method string."""
        head, _, query = text.strip().partition("?")
        label, _, folder = head.partition("=")
        return cls(
            name=label.partition("@")[0],
            label=label,
            folder=Path(folder) if folder else None,
            serving=dict(parse_qsl(query, keep_blank_values=True)),
        )


def parse_methods(text: str) -> list[MethodSpec]:
    """Read `--methods`; an unknown name or a learned method without its folder is a `SpecError`."""
    specs = [MethodSpec.parse(part) for part in text.split(",") if part.strip()]
    known = (*CLASSIC, "manual", *LEARNED)
    for spec in specs:
        if spec.name not in known:
            raise SpecError(f"--methods {spec.name!r}: unknown; there are {', '.join(known)}")
        if spec.folder is None and spec.name in LEARNED and spec.name not in SEARCHES:
            raise SpecError(f"--methods {spec.name}: write {spec.label}=FOLDER, the --out of `promptailor train`")
    return specs


def calls_model(specs: list[MethodSpec]) -> bool:
    """Whether any method needs a recommender model."""
    return any(spec.name not in CLASSIC for spec in specs)


def load_policies(specs: list[MethodSpec], workspace: Workspace) -> dict[str, PromptPolicy]:
    """Return the learned methods' policies, by label."""
    return {spec.label: workspace.load_policy(spec.folder) for spec in specs if spec.folder is not None}


def build_methods(
    specs: list[MethodSpec], workspace: Workspace, policies: Mapping[str, PromptPolicy], seed: int
) -> list[Method]:
    """Return the methods: baselines fitted on training interactions, policies behind one graph."""
    graph = workspace.graph(policies) if calls_model(specs) else None
    methods: list[Method] = []
    for spec in specs:
        if spec.name in CLASSIC:
            methods.append(CLASSIC[spec.name](workspace.baseline_inputs))
        else:
            assert graph is not None, "a method that calls a model has a graph"
            policy = spec.label if spec.folder else "manual"
            context = _context(spec, policy, seed)
            info = policies[policy].info if policy in policies else None
            methods.append(
                GraphMethod(
                    name=spec.label,
                    graph=graph,
                    context=context,
                    n_steps=context.n_steps or (info.n_steps if info else 1),
                    train_users=info.train_users if info else (),
                )
            )
    return methods


def _context(spec: MethodSpec, policy: str, seed: int) -> Context:
    values = {"policy": policy, "seed": seed, "refine": spec.name == "rpp+", "split": "test", **spec.serving}
    try:
        return Context.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"--methods {spec.label}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
