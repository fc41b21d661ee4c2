"""Sentences where the truth is known: a missing one is found and pays, and where no prompt matters none is admitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from promptailor.app.backends.planted import SentenceRecogniser
from promptailor.app.job import TrainConfig
from promptailor.app.sentences.admit import AdmitConfig, admit_sentences
from promptailor.app.sentences.folder import CATALOGUE, SentencesConfig
from promptailor.app.sentences.propose import propose_sentences
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.evals.planted import PlantedPrompt, planted_world
from promptailor.evals.sentences import Extension
from promptailor.evals.statistics import estimate
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_training
from promptailor.prompts.patterns import Catalogue, SentencePattern, dump_catalogue, load_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("segment_embeddings")]

PATTERN: SentencePattern = "role_playing"
MISSING = "psychologist"
"""A role that is the best for a third of the users of world 1, and the manual prompt's for none."""
WORLD = planted_world("1")
RECOGNISER = SentenceRecogniser(WORLD.catalogue)


def lacking(path: Path) -> Path:
    """Write the catalogue without the missing sentence."""
    content = yaml.safe_load(dump_catalogue(load_catalogue().model_copy(update={"editions": ()})))
    content[PATTERN]["sentences"] = [s for s in content[PATTERN]["sentences"] if s["id"] != MISSING]
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


def extend(
    folder: Path, model: str, catalogue: Path, *, users: int, held_out: int, samples: int, seed: int = 0
) -> Extension:
    """Propose and admit sentences of one pattern."""
    config = SentencesConfig(
        dataset="planted", model=model, catalogue=catalogue, patterns=(PATTERN,), proposals=4, users=users, seed=seed
    )
    propose_sentences(config, folder, resume=False)
    return admit_sentences(folder, AdmitConfig(held_out=held_out, samples=samples)).extension


def served(run: Path, catalogue: Catalogue, seed: int) -> dict[str, float]:
    """Serve new users with a trained bandit; return the noise-free reward of each one's prompt."""
    workspace = Workspace(
        settings=Settings(), dataset_name="planted", model="planted:1", seed=seed, catalogue=catalogue
    )
    graph = workspace.graph({"bandit": workspace.load_policy(run)}, training=True)
    users = train_inputs(workspace.cases(workspace.split.test[:250], 10, seed))
    rewards = {}
    for output in run_training(graph, users, Context(policy="bandit", seed=seed, split="test"), n_steps=1):
        prompt, request = output.trace[-1].prompt, output.request
        shown = {p: RECOGNISER.recognise(p, text) for p, text in prompt.sentences.items()}
        recent = [item.title for item in request.history[len(request.history) - prompt.history_length :]]
        candidates = [item.title for item in request.candidates]
        rewards[request.user_id] = WORLD.expected_ndcg(
            recent, candidates, PlantedPrompt(sentences=shown, history_length=prompt.history_length)
        )
    return rewards


def test_a_missing_sentence_is_found_and_a_policy_that_may_choose_it_is_better(tmp_path: Path) -> None:
    """For everybody it would be no better than the present role; the test per user finds it."""
    without = lacking(tmp_path / "without.yaml")
    extension = extend(tmp_path / "extended", "planted:1", without, users=300, held_out=280, samples=2)
    found = [RECOGNISER.recognise(PATTERN, tried.proposal.text) for tried in extension.admitted]
    assert set(found) == {MISSING}
    assert extension.admitted[0].suited.low > 0
    rewards = {}
    for name, path in {"without": without, "with": tmp_path / "extended" / CATALOGUE}.items():
        config = TrainConfig(
            policy="bandit", dataset="planted", model="planted:1", users=150, calls=1_500, catalogue=path
        )
        run_training_job(config, tmp_path / name, resume=False)
        rewards[name] = served(tmp_path / name, load_catalogue(path), seed=0)
    assert rewards["with"].keys() == rewards["without"].keys()
    gain = estimate(
        np.array([rewards["with"][user] - rewards["without"][user] for user in rewards["with"]]), key=("gain",)
    )
    assert gain.low > 0, f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def test_where_no_prompt_matters_no_sentence_is_admitted_beyond_alpha(tmp_path: Path) -> None:
    """Each run admits anything with a chance of 5 % at most, so two of three would be an accident of 1 %."""
    without = lacking(tmp_path / "without.yaml")
    runs = [
        extend(tmp_path / str(seed), "planted:null", without, users=40, held_out=40, samples=1, seed=seed)
        for seed in range(3)
    ]
    assert all(run.tried for run in runs)
    assert sum(bool(run.admitted) for run in runs) <= 1
