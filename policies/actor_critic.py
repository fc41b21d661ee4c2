"""The policy of RPP: one actor and one critic per pattern, centralised training, decentralised execution.

For the ablation of the team it can also be one actor with one critic: with a head per pattern (PPO-4), or over every
combination of the patterns' actions (PPO-1). The graph runs it as agents all the same: each node reports its pattern's
part of what the one actor chose.

A request is served row by row, never in a batch, so a user alone gets bit for bit what the same user gets among others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from promptailor.policies.additive import length_codes
from promptailor.policies.base import PolicyInfo
from promptailor.policies.draws import sample_index
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.joint_actions import JointActions
from promptailor.policies.masks import mask_actions, next_lengths
from promptailor.policies.networks import FactoredCritic, SharedTrunk, TwoLayer, entropy, initialise
from promptailor.policies.state_encoder import StateEncoder, StateReader
from promptailor.policies.types import AgentChoice, Pooling, StateInputs, StateKind
from promptailor.prompts.llm import TextEncoder
from promptailor.prompts.patterns import PATTERNS, Catalogue, PatternName

N_COUNTERS = 4
"""l_{t-1}, the cap, t and the known profile fields follow the state in an observation: masks are made of them."""

DESCRIPTIONS: Mapping[PatternName, str] = {
    "role_playing": "Chooses the role that the model is given.",
    "history_records": "Chooses how many more of the user's most recent interactions the prompt shows.",
    "reasoning_guidance": "Chooses the sentence that tells the model how to reason.",
    "output_format": "Chooses the sentence that tells the model how to write its answer.",
    "user_profile": "Chooses which fields of the user's profile the prompt shows.",
}

Team = Literal["agents", "heads", "joint"]
"""Who chooses: an actor and a critic per pattern; one actor with a head per pattern; one over whole combinations."""

_SHARED = "shared"
"""Name of the one actor's and the one critic's modules where there is no team."""
_LATER: Mapping[str, bool] = {"later": True}
"""Marks fields that the first saved policies did not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """What a policy is made of; the defaults depart from the paper where `paper` says how."""

    state: StateKind = "full"
    pooling: Pooling = "gru"
    critic: Literal["factored", "value"] = "factored"
    """`factored`: a critic says what each of its agent's actions adds to the reward. `value`: V(s), as in the paper."""
    hidden: int = 32
    personalised: tuple[PatternName, ...] = PATTERNS
    """Patterns with an agent; the others keep the manual prompt's sentence or length."""
    sentences: int | None = field(default=None, metadata=_LATER)
    """Only the first so many sentences of each sentence pattern are actions; None: all of them."""
    team: Team = field(default="agents", metadata=_LATER)
    """The factored critic says what each agent's actions add, so it goes with `agents` only."""

    def __post_init__(self) -> None:
        """Refuse one actor with a factored critic."""
        if self.team != "agents" and self.critic != "value":
            raise ValueError(f"team={self.team!r} has one critic of the state; set critic='value'")

    @classmethod
    def paper(cls) -> PolicyConfig:
        """Return the paper's policy: s_0 = u, s_t = W enc(p_t) + GRU, and critics of the state alone."""
        return cls(state="paper", critic="value", hidden=64)

    @property
    def settings(self) -> dict[str, Any]:
        """What is saved and digested; later fields are left out at their defaults, so that digests stay the same."""
        values = asdict(self)
        return {f.name: values[f.name] for f in fields(self) if f.metadata != _LATER or values[f.name] != f.default}


class ReinforcedPolicy:
    """A team of actor-critic agents; a `StepwisePolicy`."""

    kind: ClassVar[str] = "reinforced"
    reads_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        config: PolicyConfig,
        catalogue: Catalogue,
        *,
        embeddings: ItemEmbeddings,
        encoder: TextEncoder,
        seed: int = 0,
        info: PolicyInfo | None = None,
    ) -> None:
        """Build an untrained policy.

        Args:
            config: what it is made of.
            catalogue: the patterns, and with them the action spaces.
            embeddings: vectors of users and ranked items.
            encoder: embeds the prompt's sentences.
            seed: fixes the initial weights.
            info: what it says of itself; by default that it is fresh.
        """
        self.config, self.catalogue, self._info = config, catalogue, info
        self.reader = StateReader(config.state, embeddings, encoder, catalogue)
        self.networks = _Networks(config, catalogue, embeddings.dimension, encoder.dimension, seed)

    @property
    def info(self) -> PolicyInfo:
        """Name, version, users it has seen, calls per request."""
        return self._info or PolicyInfo(name="rpp", version="untrained")

    @property
    def agents(self) -> Mapping[PatternName, str]:
        """Patterns that have an agent, each with the description its tool shows."""
        return {pattern: DESCRIPTIONS[pattern] for pattern in self.config.personalised}

    def observe(self, inputs: StateInputs) -> list[float]:
        """Compute s_t followed by the counters of `StateFeatures`, shape (state_dim + 4,)."""
        with torch.inference_mode():
            features = self.reader.read(inputs)
            return cast(list[float], torch.cat([self.networks.encoder(features), features.counters], 1)[0].tolist())

    def act(
        self, pattern: PatternName, vector: Sequence[float], *, key: tuple[str | int, ...], explore: bool
    ) -> AgentChoice:
        """Let one agent choose: sampled by `key` when exploring, else the most probable action, the first of equals.

        One actor over combinations draws the same one for every pattern that is asked for; the log-probability is that
        of the pattern's action given those of the patterns before it, so that the patterns' add up.
        """
        networks, joint = self.networks, self.networks.joint
        # The pattern stands twice in an agent's key, as in the draws that the first saved policies learned from.
        own = () if joint else (pattern, pattern)
        with torch.inference_mode():
            row = torch.tensor([vector], dtype=torch.float32)
            state, counters = row[:, :-N_COUNTERS], row[:, -N_COUNTERS:]
            log_probs = networks.log_joint(state, counters) if joint else networks.log_policy(pattern, state, counters)
            value = float(networks.value(pattern, state, counters, log_probs))
            chances = log_probs.exp()[0].tolist()
        chosen = sample_index(chances, *key, *own) if explore else chances.index(max(chances))
        action, log_prob = chosen, float(log_probs[0, chosen])
        if joint:
            place, actions = self.config.personalised.index(pattern), joint.split(chosen)
            action, log_prob = actions[place], joint.log_conditionals(log_probs[0], actions)[place]
        return AgentChoice(
            action=action,
            sentence_id=self._sentence_id(pattern, action),
            log_prob=log_prob,
            value=value,
        )

    def _sentence_id(self, pattern: PatternName, action: int) -> str:
        if pattern == "history_records":
            return f"+{self.catalogue.history_records.increments[action]}"
        if pattern == "user_profile":
            return self.catalogue.user_profile.ids[action]
        return self.catalogue.sentences(pattern)[action].id

    @property
    def digest(self) -> str:
        """Hex digest of the configuration and every weight."""
        digest = hashlib.sha256(json.dumps(self.config.settings).encode())
        for name, tensor in sorted(self.networks.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `policy.json` and `policy.safetensors`."""
        (folder / "policy.json").write_text(json.dumps(self.config.settings, indent=2) + "\n", "utf-8")
        (folder / "policy.safetensors").write_bytes(safetensors.torch.save(self.networks.state_dict()))

    @classmethod
    def load(
        cls, folder: Path, info: PolicyInfo, *, catalogue: Catalogue, embeddings: ItemEmbeddings, encoder: TextEncoder
    ) -> ReinforcedPolicy:
        """Read what `save` wrote; use `checkpoint.load_policy`, which checks that the files fit."""
        raw = json.loads((folder / "policy.json").read_text("utf-8"))
        config = PolicyConfig(**raw | {"personalised": tuple(raw["personalised"])})
        policy = cls(config, catalogue, embeddings=embeddings, encoder=encoder, info=info)
        policy.networks.load_state_dict(safetensors.torch.load((folder / "policy.safetensors").read_bytes()))
        return policy


class _Networks(nn.Module):
    """Everything of a policy that learns."""

    def __init__(
        self, config: PolicyConfig, catalogue: Catalogue, dimension: int, text_dimension: int, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.catalogue, self.history = catalogue, catalogue.history_records
        self.encoder = StateEncoder(config.state, config.pooling, dimension=dimension, text_dimension=text_dimension)
        initialise(self.encoder.project, generator, sd=1.0)  # text embeddings have unit length
        if self.encoder.gru is not None:
            initialise(self.encoder.gru, generator, sd=dimension**-0.5)
        shape = {"n_inputs": self.encoder.state_dim, "hidden": config.hidden, "fan_in": dimension}
        two_layers = partial(TwoLayer, **shape, generator=generator)
        actors: dict[str, nn.Module] = {}
        critics: dict[str, nn.Module] = {}
        self.personalised = config.personalised
        sizes = {pattern: catalogue.n_actions(pattern, config.sentences) for pattern in config.personalised}
        self.joint = JointActions(tuple(sizes.values())) if config.team == "joint" else None
        if config.team != "agents":
            actors[_SHARED] = (
                two_layers(n_outputs=len(self.joint))
                if self.joint
                else SharedTrunk(self.encoder.state_dim, config.hidden, sizes, fan_in=dimension, generator=generator)
            )
            critics[_SHARED] = two_layers(n_outputs=1)
        for pattern, n_actions in sizes.items() if config.team == "agents" else ():
            actors[pattern] = two_layers(n_outputs=n_actions)
            if config.critic == "value":
                critics[pattern] = two_layers(n_outputs=1)
            else:
                codes = torch.eye(n_actions)
                if pattern == "history_records":
                    codes = torch.from_numpy(length_codes(self.history.max_length)).float()
                critics[pattern] = FactoredCritic(**shape, codes=codes, generator=generator)
        self.actors, self.critics = nn.ModuleDict(actors), nn.ModuleDict(critics)

    def log_policy(self, pattern: PatternName, state: Tensor, counters: Tensor) -> Tensor:
        """Return log pi_k(a | s), shape (B, n_actions); masked actions are -inf."""
        shared = _SHARED in self.actors
        logits: Tensor = self.actors[_SHARED](state, pattern) if shared else self.actors[pattern](state)
        return torch.log_softmax(mask_actions(logits, pattern, self.catalogue, counters), dim=1)

    def log_joint(self, state: Tensor, counters: Tensor) -> Tensor:
        """Return log pi(a_1 ... a_K | s) of the one actor over combinations, shape (B, combinations)."""
        assert self.joint is not None, "only one actor over combinations has joint probabilities"
        logits: Tensor = self.actors[_SHARED](state)
        open_to_all = [state.new_zeros(len(state), size) for size in self.joint.sizes]
        masks = [
            mask_actions(zeros, pattern, self.catalogue, counters)
            for pattern, zeros in zip(self.personalised, open_to_all, strict=True)
        ]
        return torch.log_softmax(logits + self.joint.add(masks), dim=1)

    @property
    def learners(self) -> list[tuple[nn.Module, slice]]:
        """What learns by itself: each critic, and the places of the patterns whose choice it judges as one."""
        if _SHARED in self.critics:
            return [(self.critics[_SHARED], slice(None))]
        return [(self.critics[pattern], slice(k, k + 1)) for k, pattern in enumerate(self.personalised)]

    def judge(self, places: slice, state: Tensor, counters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi(actions | s) and the entropy of pi, both of shape (B,), for some patterns together.

        Args:
            places: which patterns.
            state: shape (B, state_dim).
            counters: as in `StateFeatures`.
            actions: of all patterns, shape (B, K).
        """
        if self.joint:
            log_probs = self.log_joint(state, counters)
            return log_probs.gather(1, self.joint.join(actions)[:, None])[:, 0], entropy(log_probs)
        chosen, entropies = [], []
        for pattern, column in zip(self.personalised[places], actions[:, places].unbind(dim=1), strict=True):
            log_probs = self.log_policy(pattern, state, counters)
            chosen.append(log_probs.gather(1, column[:, None])[:, 0])
            entropies.append(entropy(log_probs))
        return torch.stack(chosen).sum(dim=0), torch.stack(entropies).sum(dim=0)

    def value(self, pattern: PatternName, state: Tensor, counters: Tensor, log_probs: Tensor) -> Tensor:
        """Return the critic's V(s), shape (B,); of a factored critic what its agent's choice is expected to add."""
        outputs: Tensor = self.critics[_SHARED if _SHARED in self.critics else pattern](state)
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        if pattern == "history_records":
            outputs = outputs.gather(1, next_lengths(self.history, counters))
        return (log_probs.exp() * outputs).sum(dim=1)
