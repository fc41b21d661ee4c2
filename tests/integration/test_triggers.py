"""PAP-REC from the command's settings to the report, on a language model in which one word makes all the difference."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from promptailor.app.backends import connect
from promptailor.app.evaluation import EvaluateConfig, Evaluation, run_evaluation
from promptailor.app.job import PapRecConfig, TrainConfig, TrainSummary
from promptailor.app.run_folder import POLICY
from promptailor.app.training import run_training_job
from promptailor.evals.datasets import load_dataset, load_spec
from promptailor.evals.protocol import split_users
from promptailor.evals.types import EvalCase
from promptailor.policies.checkpoint import load_policy, read_manifest
from promptailor.policies.pap_rec.policy import TriggerPolicy
from promptailor.prompts.errors import CheckpointError, InputError, SpecError
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from promptailor.app import triggers
from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.tokenizer import Vocabulary, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import prompt_phrases, prompt_words
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.local.engine import Engine

MAGIC = "careful"
N_USERS, N_ITEMS, LENGTH, RING = 180, 61, 7, 11
MODEL = "transformers:planted"


class PlantedLm:
    """Ranks at random, unless the prompt holds the magic word: then it knows what follows on the ring."""

    def __init__(self, engine: Engine) -> None:
        self.table = engine.model.get_input_embeddings().weight
        encode = engine.tokenizer.encode
        self.titles = {encode(f"\n- Title {n}", add_special_tokens=False)[1]: n for n in range(N_ITEMS)}
        self.labels = {encode(f"\n{n}. Title 1", add_special_tokens=False)[0]: encode(str(n))[0] for n in range(1, 11)}
        self.magic = self.table[encode(f"\n {MAGIC}", add_special_tokens=False)[-1]]

    def __call__(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **_: Any,
    ) -> SimpleNamespace:
        embedded = self.table[input_ids] if inputs_embeds is None else inputs_embeds
        assert logits_to_keep is not None
        ids = torch.cdist(embedded.detach(), self.table[None]).argmin(-1).tolist()
        alike = embedded @ self.magic / (self.magic @ self.magic)
        gates = torch.nn.functional.softplus(10 * (alike - 0.5)).sum(dim=1) / 5
        told = torch.zeros(len(ids), len(self.table))
        base = torch.zeros_like(told)
        for row, tokens in enumerate(ids):
            pairs = itertools.pairwise(tokens)
            shown = {self.titles[title]: self.labels[number] for number, title in pairs if number in self.labels}
            past = [self.titles[t] for t in tokens if t in self.titles and self.titles[t] not in shown]
            for item, label in shown.items():
                base[row, label] = (item * 37 % 101) / 50
            if past and (label := shown.get((past[-1] + RING) % N_ITEMS)) is not None:
                told[row, label] = 4.0
        logits = base + gates[:, None] * told
        return SimpleNamespace(logits=logits[:, None].expand(-1, len(logits_to_keep), -1))


@pytest.fixture(scope="module")
def engine() -> Engine:
    catalogue = load_catalogue()
    tokenizer = build_tokenizer(
        Vocabulary(
            phrases=prompt_phrases(catalogue, load_tasks(), "movies"),
            words=prompt_words(catalogue, load_tasks(), "movies"),
            lines=tuple(f"Title {n}" for n in range(N_ITEMS)),
        )
    )
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, eos_token_id=tokenizer.eos_token_id, **sizes)
    engine = Engine(LlamaForCausalLM(config), tokenizer)
    engine.model.forward = PlantedLm(engine)  # a module calls what is there
    return engine


@pytest.fixture
def dataset(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    chat = LocalChat.of(engine, model_name=MODEL, fingerprint="planted")
    monkeypatch.setattr(connect, "resolve_model", lambda spec, settings: chat)
    rows = [
        f"{user}\t{(7 * user + user // N_ITEMS + RING * turn) % N_ITEMS}\t{turn}"
        for user in range(N_USERS)
        for turn in range(LENGTH)
    ]
    (tmp_path / "toy.inter").write_text("\n".join(["user_id\titem_id\ttimestamp", *rows]) + "\n", "utf-8")
    items = [f"{n}\tTitle {n}" for n in range(N_ITEMS)]
    (tmp_path / "toy.item").write_text("\n".join(["item_id\ttitle", *items]) + "\n", "utf-8")
    layout = {"name": "atomic", "interactions": {"file": "toy.inter"}, "items": {"file": "toy.item"}}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "domain": "movies", "time": "order", "layouts": [layout]}), "utf-8")
    return str(path)


def train(dataset: str, out: Path, *, resume: bool = False, budget: str | None = None, **settings: Any) -> TrainSummary:
    settings = {"shared": 2, "rounds": 2} | settings
    config = TrainConfig(
        policy="pap-rec", dataset=dataset, model=MODEL, users=40, budget=budget, pap_rec=PapRecConfig(**settings)
    )
    return run_training_job(config, out, resume=resume)


def evaluate(dataset: str, methods: str, out: Path, **settings: Any) -> Evaluation:
    config = EvaluateConfig(methods=methods, dataset=dataset, model=MODEL, **settings)
    return run_evaluation(config, out, resume=False)


def policy_of(run: Path) -> TriggerPolicy:
    def no_embeddings() -> Any:
        raise AssertionError("triggers read no embeddings")

    loaded = load_policy(run / POLICY, catalogue=load_catalogue(), embeddings=no_embeddings, encoder=None)  # type: ignore[arg-type]
    assert isinstance(loaded, TriggerPolicy)
    return loaded


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The users that a search encodes, each with the item it is asked to place."""
    seen: set[tuple[str, str]] = set()
    encode = triggers._Encoder._encode

    def spy(self: Any, case: EvalCase, words: Any) -> Any:
        seen.add((case.user_id, case.relevant_item_id))
        return encode(self, case, words)

    monkeypatch.setattr(triggers._Encoder, "_encode", spy)
    return seen


@pytest.mark.slow
def test_the_word_is_found_served_and_told_from_random_ones(
    dataset: str, tmp_path: Path, asked: set[tuple[str, str]]
) -> None:
    summary = train(dataset, tmp_path / "run", personal=1, warm=20)
    words = policy_of(tmp_path / "run").words
    assert MAGIC in words
    assert any(MAGIC in note for note in summary.notes)

    data = load_dataset(load_spec(dataset), tmp_path)
    split = split_users(data)
    warm = split.test[:20]
    assert {user for user, _ in asked} == {*split.train[:40], *split.validation[:20], *warm}
    second = {user: data.sequences[user][-2] for user in data.sequences}
    assert all(item == second[user] for user, item in asked if user not in split.train)

    run = tmp_path / "run"
    cold = evaluate(dataset, f"manual,pap-rec={run},pap-rec@random={run}?triggers=random", tmp_path / "cold").report
    assert set(cold.split.test_users).isdisjoint({*warm, *split.train[:40], *split.validation[:20]})
    means = {name: result.primary for name, result in cold.methods.items()}
    assert means["pap-rec"].low > means["manual"].high
    assert means["pap-rec"].low > means["pap-rec@random"].high

    methods = f"manual,pap-rec={run},pap-rec@shared={run}?personal=false"
    own = evaluate(dataset, methods, tmp_path / "warm", protocol="warm").report
    assert set(own.split.test_users) == set(own.split.warm_users) == set(warm)
    assert own.methods["pap-rec@shared"].primary.mean > own.methods["manual"].primary.mean


@pytest.mark.slow
def test_a_run_that_is_cut_off_and_resumed_equals_an_unbroken_one(dataset: str, tmp_path: Path) -> None:
    unbroken = train(dataset, tmp_path / "whole", personal=1, warm=8)
    cut = train(dataset, tmp_path / "cut", personal=1, warm=8, budget="calls=700")
    assert cut.stopped == "budget"
    assert read_manifest(tmp_path / "cut" / POLICY).stopped == "budget"
    resumed = train(dataset, tmp_path / "cut", personal=1, warm=8, resume=True)
    assert policy_of(tmp_path / "cut") == policy_of(tmp_path / "whole")
    assert resumed.user_steps == unbroken.user_steps
    logs = [(tmp_path / run / "training.jsonl").read_bytes() for run in ("cut", "whole")]
    assert logs[0] == logs[1]


def test_what_cannot_be_searched_or_served_says_what_to_do(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="explanation"):
        train(dataset, tmp_path / "explain", task="explanation")
    with pytest.raises(SpecError, match="--personal"):
        train(dataset, tmp_path / "warm", warm=5)
    with pytest.raises(SpecError, match="pap-rec"):
        run_training_job(
            TrainConfig(policy="rpp", dataset=dataset, model=MODEL, pap_rec=PapRecConfig()),
            tmp_path / "rpp",
            resume=False,
        )
    train(dataset, tmp_path / "run", rounds=1)
    with pytest.raises(InputError, match="--warm"):
        evaluate(dataset, f"pap-rec={tmp_path / 'run'}", tmp_path / "e", protocol="warm")
    with pytest.raises(SpecError, match="triggers: write"):
        evaluate(dataset, f"pap-rec={tmp_path / 'run'}?triggers=best", tmp_path / "e")
    files = tmp_path / "run" / POLICY
    policy = next(files.glob("*/policy.json"))
    policy.write_text(policy.read_text("utf-8").replace('"words": [', '"words": ["two words",'), "utf-8")
    with pytest.raises(CheckpointError, match="changed"):
        policy_of(tmp_path / "run")


def test_a_model_without_gradients_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(policy="pap-rec", dataset="planted", model="planted:1", users=10)
    with pytest.raises(SpecError, match="gradients"):
        run_training_job(config, tmp_path / "run", resume=False)


def test_without_a_history_the_prompt_shows_none(dataset: str, tmp_path: Path) -> None:
    train(dataset, tmp_path / "direct", task="direct", rounds=1)
    policy = policy_of(tmp_path / "direct")
    assert policy.spec.history_length == 0
