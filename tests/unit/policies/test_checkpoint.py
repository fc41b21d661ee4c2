"""Checkpoints come back bit for bit, or say in one line why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import OneShotPolicy, PromptPolicy, StepwisePolicy
from promptailor.policies.checkpoint import PolicyManifest, load_policy, read_manifest, save_policy
from promptailor.policies.manual import SinglePrompt, manual_policy
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import CheckpointError
from promptailor.prompts.patterns import Sentence

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld


@pytest.fixture
def manifest(toy: ToyWorld) -> PolicyManifest:
    return PolicyManifest(
        name="rpp",
        seed=4,
        train_users=("a-user-0", "b-user-1"),
        validation_users=("a-user-2",),
        catalogue_digest=toy.catalogue.digest,
        dataset="toy",
        dataset_digest="d",
        model="planted:1",
        n_steps=3,
        stopped="finished",
        calls=100,
    )


@pytest.fixture
def team(toy: ToyWorld, text_encoder: HashEncoder) -> ReinforcedPolicy:
    config = PolicyConfig(hidden=8, personalised=("role_playing", "history_records"))
    return ReinforcedPolicy(config, toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder, seed=1)


@pytest.fixture
def load(toy: ToyWorld, text_encoder: HashEncoder) -> Callable[[Path], PromptPolicy]:
    return lambda folder: load_policy(
        folder, catalogue=toy.catalogue, embeddings=lambda: toy.embeddings, encoder=text_encoder
    )


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_team_of_agents_comes_back_bit_for_bit(
    tmp_path: Path,
    toy: ToyWorld,
    team: ReinforcedPolicy,
    manifest: PolicyManifest,
    load: Callable[[Path], PromptPolicy],
) -> None:
    save_policy(tmp_path, team, manifest)
    loaded = load(tmp_path)
    assert isinstance(loaded, StepwisePolicy)
    assert toy.rollout(loaded, "a-user-3") == toy.rollout(team, "a-user-3")
    assert loaded.info.version == team.digest
    assert loaded.info.train_users == ("a-user-0", "b-user-1", "a-user-2")
    assert (loaded.info.name, loaded.info.n_steps) == ("rpp", 3)


@pytest.mark.parametrize(
    "config",
    [
        PolicyConfig(hidden=8, sentences=2, pooling="mean", state="paper"),
        PolicyConfig(hidden=8, personalised=("role_playing", "user_profile")),
        PolicyConfig(hidden=8, critic="value", team="heads"),
        PolicyConfig(hidden=8, critic="value", team="joint", sentences=3),
    ],
    ids=["paper-state", "profile", "ppo-4", "ppo-1"],
)
def test_ablated_policies_come_back_bit_for_bit(
    config: PolicyConfig,
    tmp_path: Path,
    toy: ToyWorld,
    text_encoder: HashEncoder,
    manifest: PolicyManifest,
    load: Callable[[Path], PromptPolicy],
) -> None:
    policy = ReinforcedPolicy(config, toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder, seed=1)
    save_policy(tmp_path, policy, manifest)
    loaded = load(tmp_path)
    assert isinstance(loaded, ReinforcedPolicy)
    assert loaded.config == config
    assert loaded.digest == policy.digest
    assert toy.rollout(loaded, "a-user-3", n_steps=3) == toy.rollout(policy, "a-user-3", n_steps=3)


def test_one_shot_policies_come_back(
    tmp_path: Path, toy: ToyWorld, manifest: PolicyManifest, load: Callable[[Path], PromptPolicy]
) -> None:
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    bandit.fit(toy, calls=200, seed=0)
    for policy in (bandit, manual_policy(toy.catalogue)):
        save_policy(tmp_path, policy, manifest)
        loaded = load(tmp_path)
        assert isinstance(loaded, OneShotPolicy)
        for explore in (True, False):
            decisions = [p.choose(toy.inputs("b-user-9"), key=(1,), explore=explore) for p in (policy, loaded)]
            assert decisions[0] == decisions[1]


def test_policies_serve_unchanged_after_sentences_were_added(
    tmp_path: Path, toy: ToyWorld, text_encoder: HashEncoder, manifest: PolicyManifest
) -> None:
    """Under a catalogue that has grown, the greedy and the drawn choices are the old ones."""
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    bandit.fit(toy, calls=100, seed=0)
    team = ReinforcedPolicy(PolicyConfig(), toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder, seed=1)
    clerk = Sentence(id="clerk", text="You sell {items}.")
    grown = toy.catalogue.extended({"role_playing": [clerk], "output_format": [clerk]})
    trained: dict[str, PromptPolicy] = {"bandit": bandit, "team": team}
    for name, policy in trained.items():
        save_policy(tmp_path / name, policy, manifest)
        loaded = load_policy(tmp_path / name, catalogue=grown, embeddings=lambda: toy.embeddings, encoder=text_encoder)
        if isinstance(loaded, ReinforcedPolicy):
            assert toy.rollout(loaded, "a-user-3", n_steps=2) == toy.rollout(team, "a-user-3", n_steps=2)
        else:
            assert isinstance(loaded, FactoredBandit)
            chosen = [p.choose(toy.inputs("b-user-9"), key=(1,), explore=True) for p in (bandit, loaded)]
            assert chosen[0] == chosen[1]


def test_a_single_prompt_needs_no_embeddings(
    tmp_path: Path, toy: ToyWorld, text_encoder: HashEncoder, manifest: PolicyManifest
) -> None:
    save_policy(tmp_path, manual_policy(toy.catalogue), manifest)
    loaded = load_policy(tmp_path, catalogue=toy.catalogue, embeddings=pytest.fail, encoder=text_encoder)
    assert isinstance(loaded, SinglePrompt)


def test_saving_again_leaves_only_the_new_policy(
    tmp_path: Path, team: ReinforcedPolicy, manifest: PolicyManifest, load: Callable[[Path], PromptPolicy]
) -> None:
    save_policy(tmp_path, team, manifest)
    with torch.no_grad():
        team.networks.encoder.project.weight.add_(1.0)
    for _ in range(2):
        save_policy(tmp_path, team, manifest)
        assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", team.digest}
    assert load(tmp_path).info.version == team.digest


def test_two_saves_of_one_policy_are_the_same_bytes(
    tmp_path: Path, team: ReinforcedPolicy, manifest: PolicyManifest
) -> None:
    for name in ("one", "two"):
        save_policy(tmp_path / name, team, manifest)
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("one", "two")]
    assert len(files[0]) == 3
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


@pytest.mark.parametrize("moment", ["policy.safetensors", "manifest.json"])
def test_a_full_disk_leaves_the_old_policy(
    moment: str, tmp_path: Path, team: ReinforcedPolicy, manifest: PolicyManifest,
    load: Callable[[Path], PromptPolicy], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save_policy(tmp_path, team, manifest)
    old = team.digest
    with torch.no_grad():
        team.networks.encoder.project.weight.add_(1.0)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == moment:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_policy(tmp_path, team, manifest)
    monkeypatch.undo()
    assert load(tmp_path).info.version == old
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version 2 is newer than 1"),
        ({"catalogue_digest": "other"}, "catalogue_digest is other"),
        ({"kind": "oracle"}, "kind 'oracle' is unknown"),
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": None}, "n_steps"),
        ({"surprise": 1}, "surprise"),
        ({"files": {"policy.bin": "00"}}, "policy.bin: no such file"),
    ],
)
def test_a_manifest_that_does_not_fit_names_the_field(
    changes: dict[str, Any], message: str, tmp_path: Path, team: ReinforcedPolicy, manifest: PolicyManifest,
    load: Callable[[Path], PromptPolicy],
) -> None:  # fmt: skip
    save_policy(tmp_path, team, manifest)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_or_missing_file_is_named(
    name: str, damage: bytes | None, tmp_path: Path, team: ReinforcedPolicy, manifest: PolicyManifest,
    load: Callable[[Path], PromptPolicy],
) -> None:  # fmt: skip
    version = save_policy(tmp_path, team, manifest).version
    path = tmp_path / version / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff", b'{"schema_version": "x"}'])
def test_an_unreadable_manifest_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="manifest") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


def test_embeddings_of_another_size_are_refused(
    tmp_path: Path, toy: ToyWorld, text_encoder: HashEncoder, team: ReinforcedPolicy, manifest: PolicyManifest
) -> None:
    save_policy(tmp_path, team, manifest)
    text_encoder.dimension = 7
    with pytest.raises(CheckpointError, match="does not load"):
        load_policy(tmp_path, catalogue=toy.catalogue, embeddings=lambda: toy.embeddings, encoder=text_encoder)
