"""The folder of a training run: its settings, its answers, its log, its policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptailor.evals.records import write_text
from promptailor.graph.train import Update
from promptailor.policies.base import PromptPolicy
from promptailor.policies.checkpoint import MANIFEST, PolicyManifest, SavablePolicy, read_manifest, save_policy
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.lineage import PromptVersion
from promptailor.policies.manual import Stopped
from promptailor.policies.types import PaidReward
from promptailor.prompts.errors import InputError

CONFIG = "config.json"
POLICY = "policy"
EMBEDDINGS = "embeddings"
REWARDS = "rewards.jsonl"


@dataclass(frozen=True)
class TrainingFolder:
    """A training run on disk: `config.json`, `responses.sqlite`, `training.jsonl`, `rewards.jsonl`, `policy/`,
    `embeddings/`.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], *, resume: bool) -> TrainingFolder:
        """Start a run, or go on with one.

        Raises:
            InputError: the folder holds a run and `resume` is off, or holds a run with other settings.
        """
        stored = path / CONFIG
        if stored.exists():
            if not resume:
                raise InputError(f"--out {path}: already holds a run; pass --resume to go on, or name another folder")
            was = _read_config(stored)
            if different := sorted(k for k in was.keys() | config.keys() if was.get(k) != config.get(k)):
                key = different[0]
                raise InputError(
                    f"--resume {path}: {key} was {was.get(key)!r} and is {config.get(key)!r}; settings must match"
                )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_text(stored, json.dumps(config, indent=2) + "\n")
            (path / "training.jsonl").unlink(missing_ok=True)
            (path / REWARDS).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"--out {path}: {error.strerror}; name a folder that can be written") from None
        return cls(path)

    def withdraw(self) -> None:
        """Take back a run that turned out impossible before it paid for anything."""
        (self.path / CONFIG).unlink()
        with suppress(OSError):  # the folder was there before, with something in it
            self.path.rmdir()

    def log(self, update: Update, validation: float | None) -> None:
        """Append one update to `training.jsonl`; a resumed run writes the whole log again, from its replay."""
        row = {
            "update": update.number,
            "epoch": update.epoch,
            "calls": update.calls,
            "mean_reward": update.stats.mean_reward,
            "validation": validation,
            **{k: v for k, v in asdict(update.stats).items() if k != "mean_reward"},
        }
        with (self.path / "training.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.log_rewards(update.paid)

    def log_round(self, version: PromptVersion, validation: float | None, epoch: int) -> None:
        """Append one round of a prompt that is rewritten, the columns that learning curves are drawn from."""
        row = {
            "update": version.number,
            "epoch": epoch,
            "calls": version.calls,
            "mean_reward": version.mean_reward,
            "validation": validation,
            "accepted": version.accepted,
            **version.model_dump(mode="json", include={"mean_rank", "n_failed", "n_unread", "n_unwritten", "reason"}),
        }
        with (self.path / "training.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def log_rewards(self, rewards: Sequence[PaidReward]) -> None:
        """Append to `rewards.jsonl`, which reward models learn from; a resumed run writes it again as well."""
        with (self.path / REWARDS).open("a", encoding="utf-8") as file:
            file.writelines(f"{reward.model_dump_json()}\n" for reward in rewards)

    def save_policy(
        self, policy: PromptPolicy, manifest: PolicyManifest, embeddings: Callable[[], ItemEmbeddings]
    ) -> None:
        """Save a policy, whole or not at all, beside the embeddings it reads, so that serving needs no data set."""
        if isinstance(policy, SavablePolicy) and policy.reads_embeddings:
            embeddings().save(self.path / EMBEDDINGS)
        save_policy(self.path / POLICY, policy, manifest)

    def mark(self, stopped: Stopped) -> None:
        """Say in the saved policy's manifest how the run ended, where that was decided after it was saved."""
        manifest = read_manifest(self.path / POLICY).model_copy(update={"stopped": stopped})
        write_text(self.path / POLICY / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{path}: damaged; delete the folder and train again")
    return config
