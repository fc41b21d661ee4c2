"""The method strings of `evaluate`: `NAME[@VARIANT][=FOLDER][?fusion=rrf&n_steps=3]`.

A search per request has settings of its own there, such as `best-of-k?k=15` or `grips?rounds=10&paraphrase=false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from pydantic import ValidationError

from promptailor.app.searches import PER_REQUEST, search_settings, searching_policy
from promptailor.app.wiring import Workspace
from promptailor.evals.baselines.base import Method
from promptailor.evals.baselines.registry import CLASSIC
from promptailor.evals.methods import GraphMethod
from promptailor.graph.context import Context
from promptailor.policies.base import PromptPolicy
from promptailor.policies.manual import CHAIN_OF_THOUGHT, MANUAL, MANUAL_PROFILE
from promptailor.policies.pap_rec.policy import NAME as PAP_REC
from promptailor.policies.pap_rec.policy import TriggerPolicy
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import Catalogue

SEARCHES = ("enumeration", "random-search")
"""Searched on training users on the spot where no folder is given."""
PER_USER = ("rpp", "rpp+", "bandit", "ppo-1", "ppo-4")
"""Policies that choose for each user; the first of them in a run is the one its gain decomposition is about."""
TAILORED = (*PER_USER, "agp", PAP_REC)
"""Those, and the ones whose prompt says something else to each user: compared with the best single prompt."""
LEARNED = (*TAILORED, *SEARCHES)
TRIGGER_SETTINGS: Mapping[str, tuple[str, ...]] = {"personal": ("true", "false"), "triggers": ("searched", "random")}
"""Of `pap-rec=FOLDER?...`: `personal=false` serves everybody's words only, `triggers=random` the baseline of the same
length; their first values are the defaults."""
BUILT_IN = (MANUAL, MANUAL_PROFILE, CHAIN_OF_THOUGHT)


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
    """Settings of `Context` that differ from the policy's own, and those of a search per request."""

    @property
    def per_request(self) -> bool:
        """Whether it searches a prompt for each request."""
        return self.name in PER_REQUEST and self.folder is None

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
    known = (*CLASSIC, *BUILT_IN, *LEARNED, *PER_REQUEST)
    for spec in specs:
        if spec.name not in known:
            raise SpecError(f"--methods {spec.name!r}: unknown; there are {', '.join(known)}")
        if spec.folder is None and spec.name in LEARNED and spec.name not in SEARCHES:
            raise SpecError(f"--methods {spec.name}: write {spec.label}=FOLDER, the --out of `promptailor train`")
        if spec.folder is not None and spec.name == "best-of-k":
            raise SpecError(f"--methods {spec.label}: searches per request and has no folder; leave out ={spec.folder}")
    return specs


def calls_model(specs: list[MethodSpec]) -> bool:
    """Whether any method needs a recommender model."""
    return any(spec.name not in CLASSIC for spec in specs)


def load_policies(specs: list[MethodSpec], workspace: Workspace) -> dict[str, PromptPolicy]:
    """Return the policies of learned methods and of searches per request, by label."""
    policies: dict[str, PromptPolicy] = {
        spec.label: _as_served(spec, workspace.load_policy(spec.folder)) for spec in specs if spec.folder is not None
    }
    searches = {
        spec.label: searching_policy(spec.name, workspace.catalogue, spec.serving) for spec in specs if spec.per_request
    }
    return policies | searches


def _as_served(spec: MethodSpec, policy: PromptPolicy) -> PromptPolicy:
    """Return a policy as its method string wants it served."""
    if not isinstance(policy, TriggerPolicy):
        return policy
    asked = {}
    for name, values in TRIGGER_SETTINGS.items():
        asked[name] = spec.serving.get(name, values[0])
        if asked[name] not in values:
            raise SpecError(f"--methods {spec.label}: {name}: write {' or '.join(values)}, not {asked[name]!r}")
    if asked["triggers"] == "random":
        return policy.at_random()
    return policy if asked["personal"] == "true" else policy.without_personal()


def rewrites_sentences(specs: list[MethodSpec], catalogue: Catalogue) -> bool:
    """Whether any method asks a refiner."""
    return any(
        spec.name == "rpp+" or (spec.per_request and searching_policy(spec.name, catalogue, spec.serving).rewrites)
        for spec in specs
    )


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
            policy = spec.label if spec.label in policies else spec.name
            if policy == MANUAL_PROFILE:
                workspace.require_profiles(f"--methods {spec.label}")
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
    own = search_settings(spec.name, spec.serving) if spec.per_request else {}
    own |= dict.fromkeys(TRIGGER_SETTINGS, "") if spec.name == PAP_REC else {}
    serving = {key: value for key, value in spec.serving.items() if key not in own}
    values = {"policy": policy, "seed": seed, "refine": spec.name == "rpp+", "split": "test", **serving}
    try:
        return Context.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"--methods {spec.label}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
