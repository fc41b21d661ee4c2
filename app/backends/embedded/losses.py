"""What the embedded model is trained to do: name titles, write answers, and rank by the first token of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from promptailor.app.backends.embedded.corpus import Example, TitleSequence
from promptailor.app.backends.embedded.tokenizer import PromptEncoder


class Losses:
    """The losses of both training stages.

    Ranking by number takes two skills that a model finds together only after a long plateau: know which title is
    wanted, and look up its number. So a layer below the last names titles: stage one predicts the next title there, and
    stage two ranks the candidates' titles there, at the place of the first answer token. At each candidate's title the
    same layer must name this title and its number, which is what the layers above it look up.

    Args:
        model: the model in training.
        encoder: its tokenizer's encoder.
        naming_layer: the layer whose output names titles; those after it look up the numbers.
    """

    def __init__(self, model: LlamaForCausalLM, encoder: PromptEncoder, naming_layer: int) -> None:
        self.model, self.encoder, self.naming_layer = model, encoder, naming_layer
        self._label_ids = list(encoder.label_ids.values())

    def titles(self, batch: Sequence[TitleSequence]) -> torch.Tensor:
        """Return the cross-entropy of every title of a batch of histories, given those before it."""
        ids = pad([s.tokens for s in batch], self.encoder.pad_id)
        rows = torch.tensor([row for row, s in enumerate(batch) for _ in s.title_places])
        places = torch.tensor([place for s in batch for place in s.title_places])
        _, naming = self._hidden(ids)
        return F.cross_entropy(self.model.lm_head(naming[rows, places - 1]).float(), ids[rows, places])

    def answers(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the cross-entropy of the answers plus, for rankings, the list-wise and the probe's losses."""
        ids = pad([e.prompt + e.answer for e in batch], self.encoder.pad_id)
        rows = torch.tensor([row for row, e in enumerate(batch) for _ in e.answer])
        places = torch.tensor([len(e.prompt) + k for e in batch for k in range(len(e.answer))])
        last, naming = self._hidden(ids)
        written = F.cross_entropy(self.model.lm_head(last[rows, places - 1]).float(), ids[rows, places])
        ranked = [(row, e) for row, e in enumerate(batch) if e.title_places]
        return written + self._ranking(ids, last, naming, ranked) if ranked else written

    def _ranking(
        self, ids: torch.Tensor, last: torch.Tensor, naming: torch.Tensor, ranked: Sequence[tuple[int, Example]]
    ) -> torch.Tensor:
        rows = torch.tensor([row for row, _ in ranked])
        first = torch.tensor([len(e.prompt) - 1 for _, e in ranked])
        numbers = pad([e.numbers for _, e in ranked], 0)
        present, n_ordered = numbers > 0, torch.tensor([e.n_ordered for _, e in ranked])
        places = pad([e.title_places for _, e in ranked], 0)
        weight = self.model.lm_head.weight
        label_scores = F.linear(last[rows, first], weight[self._label_ids]).float()
        by_number = plackett_luce(label_scores.gather(1, (numbers - 1).clamp(min=0)), present, n_ordered)
        titles = weight[ids[rows[:, None], places]]
        by_title = plackett_luce(torch.einsum("rph,rh->rp", titles, naming[rows, first]).float(), present, n_ordered)
        entries = naming[rows[:, None], places]
        own_number = F.linear(entries[present], weight[self._label_ids]).float()
        own_title = torch.einsum("rph,rqh->rpq", entries, titles).float().masked_fill(~present[:, None], -1e9)
        own_place = torch.arange(places.shape[1]).expand_as(places)
        entry = F.cross_entropy(own_number, numbers[present] - 1)
        entry = entry + F.cross_entropy(own_title[present], own_place[present])
        return by_number + by_title + entry

    def _hidden(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs of the last and of the naming layer, each normalised and (batch, tokens, hidden)."""
        output = self.model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        return output.last_hidden_state, self.model.model.norm(output.hidden_states[self.naming_layer])


def plackett_luce(scores: torch.Tensor, present: torch.Tensor, n_ordered: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of drawing the columns in order, one after another, without replacement.

    Args:
        scores: shape (batch, places), best first.
        present: which places are filled, same shape.
        n_ordered: shape (batch,); how many leading places count. Later places only stand in the denominators.

    The places are weighted by NDCG's discount, so that the top counts most (position-aware ListMLE, Lan et al. 2014).
    """
    scores = scores.masked_fill(~present, -1e9)
    log_remaining = scores.flip(1).logcumsumexp(1).flip(1)
    places = torch.arange(scores.shape[1])
    weight = (1.0 / torch.log2(places + 2.0)) * (places < n_ordered[:, None]) * present
    return (weight * (log_remaining - scores)).sum() / weight.sum()


def pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Stack sequences, padded on the right: under causal attention padding there changes nothing before it."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences])
