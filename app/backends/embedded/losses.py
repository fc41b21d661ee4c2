"""What the embedded model is trained to do: name titles, write answers, and rank by the first token of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from promptailor.app.backends.embedded.corpus import Example, TitleSequence
from promptailor.app.backends.embedded.tokenizer import PromptEncoder

_WRITTEN_WEIGHT = 4.0
"""Of an answer's tokens, of which there are many more than first tokens to share the mean."""
_FAR_BELOW = -1e9


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the layers say about a batch, each normalised and of shape (batch, tokens, hidden)."""

    ids: torch.Tensor
    """The tokens themselves, shape (batch, tokens)."""
    last: torch.Tensor
    naming: torch.Tensor
    """The output of the layer that names titles."""


class Losses:
    """The losses of both training stages.

    Ranking by number takes two skills that a model finds together only after a long plateau: know which title is
    wanted, and look up its number. So a layer below the last names titles: stage one predicts the next title there, and
    stage two ranks the candidates' titles there, at the place of the first answer token and of every later number. At
    each candidate's title the same layer must name this title and its number, and in an answer a number that a title
    follows must name itself, which is what the last layer looks up.

    Args:
        model: the model in training.
        encoder: its tokenizer's encoder.
        naming_layer: the layer whose output names titles; those after it look up the numbers.
    """

    def __init__(self, model: LlamaForCausalLM, encoder: PromptEncoder, naming_layer: int) -> None:
        self.model, self.encoder, self.naming_layer = model, encoder, naming_layer
        self._label_ids = list(encoder.label_ids.values())
        self._number_ids = torch.tensor(encoder.number_forms)

    def titles(self, batch: Sequence[TitleSequence]) -> torch.Tensor:
        """Return the cross-entropy of every title of a batch of histories, given those before it."""
        rows = torch.tensor([row for row, s in enumerate(batch) for _ in s.title_places])
        places = torch.tensor([place for s in batch for place in s.title_places])
        hidden = self._hidden(pad([s.tokens for s in batch], self.encoder.pad_id))
        return F.cross_entropy(self.model.lm_head(hidden.naming[rows, places - 1]).float(), hidden.ids[rows, places])

    def answers(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the losses of the answers as written plus, for rankings, the list-wise and the probes' losses."""
        hidden = self._hidden(pad([e.prompt + e.answer for e in batch], self.encoder.pad_id))
        rows = torch.tensor([row for row, e in enumerate(batch) for _ in e.answer])
        places = torch.tensor([len(e.prompt) + k for e in batch for k in range(len(e.answer))])
        logits = self.model.lm_head(hidden.last[rows, places - 1]).float()
        per_token = F.cross_entropy(logits, hidden.ids[rows, places], reduction="none")
        # Every answer counts the same, or a rewrite of two tokens would drown among rankings of forty.
        share = torch.tensor([1.0 / (len(batch) * len(e.answer)) for e in batch for _ in e.answer])
        loss = _WRITTEN_WEIGHT * ((per_token * share).sum() + self._repeats(logits, batch))
        ranked = [(row, e) for row, e in enumerate(batch) if e.title_places]
        return loss + self._ranking(hidden, ranked) if ranked else loss

    def _repeats(self, logits: torch.Tensor, batch: Sequence[Example]) -> torch.Tensor:
        """Return the unlikelihood of numbers that an answer has already given (Welleck et al. 2020).

        Args:
            logits: shape (answer tokens of the whole batch, vocabulary).
            batch: the examples in the same order.
        """
        given = torch.zeros(len(logits), len(self._number_ids), dtype=torch.bool)
        row = 0
        for example in batch:
            so_far: list[int] = []
            for token in example.answer:
                given[row, so_far] = bool(example.numbers)
                if number := self.encoder.number_of.get(token):
                    so_far.append(number - 1)
                row += 1
        probabilities = torch.softmax(logits, dim=-1)[:, self._number_ids].sum(-1)
        repeated = (probabilities * given).sum(-1)
        return -torch.log1p(-repeated.clamp(max=0.999)).sum() / given.any(-1).sum().clamp(min=1)

    def _ranking(self, hidden: Hidden, ranked: Sequence[tuple[int, Example]]) -> torch.Tensor:
        rows = torch.tensor([row for row, _ in ranked])
        first = torch.tensor([len(e.prompt) - 1 for _, e in ranked])
        numbers = pad([e.numbers for _, e in ranked], 0)
        present, n_ordered = numbers > 0, torch.tensor([e.n_ordered for _, e in ranked])
        places = pad([e.title_places for _, e in ranked], 0)
        titles = self.model.lm_head.weight[hidden.ids[rows[:, None], places]]
        label_logits = self._number_logits(hidden.last[rows, first]).gather(1, (numbers - 1).clamp(min=0))
        by_number = plackett_luce(label_logits, present, n_ordered)
        fit = torch.einsum("rph,rh->rp", titles, hidden.naming[rows, first]).float()
        by_title = plackett_luce(fit, present, n_ordered)
        entries = hidden.naming[rows[:, None], places]
        own_number = F.cross_entropy(self._number_logits(entries[present]), numbers[present] - 1)
        own_title = torch.einsum("rph,rqh->rpq", entries, titles).float().masked_fill(~present[:, None], _FAR_BELOW)
        own_place = torch.arange(places.shape[1]).expand_as(places)
        entry = own_number + F.cross_entropy(own_title[present], own_place[present])
        next_title = self._next_title(hidden, ranked, titles, present & (own_place < n_ordered[:, None]), present)
        return by_number + by_title + entry + next_title + self._copied_title(hidden, ranked)

    def _next_title(
        self,
        hidden: Hidden,
        ranked: Sequence[tuple[int, Example]],
        titles: torch.Tensor,
        ordered: torch.Tensor,
        present: torch.Tensor,
    ) -> torch.Tensor:
        """Return how well the naming layer names the best title that is left, before each number of an answer.

        Args:
            hidden: of the batch.
            ranked: the rankings among the batch's examples with their rows.
            titles: the candidates' title vectors, best first, shape (rankings, places, hidden).
            ordered: places whose order means something, shape (rankings, places).
            present: places that are filled, same shape.
        """
        rows = torch.tensor([row for row, _ in ranked])
        before = pad([e.number_places for _, e in ranked], 1) - 1
        fit = torch.einsum("rkh,rph->rkp", hidden.naming[rows[:, None], before], titles).float()
        left = torch.ones_like(fit[0], dtype=torch.bool).triu() & present[:, None]
        place = torch.arange(titles.shape[1]).expand_as(present)
        return F.cross_entropy(fit.masked_fill(~left, _FAR_BELOW)[ordered], place[ordered])

    def _copied_title(self, hidden: Hidden, ranked: Sequence[tuple[int, Example]]) -> torch.Tensor:
        """Return how well the naming layer names a candidate's number where the answer writes its title next."""
        copied = [
            (row, place - 1, number)
            for row, e in ranked
            for place, number in zip(e.written_title_places, e.numbers, strict=bool(e.written_title_places))
        ]
        if not copied:
            return hidden.naming.new_zeros(())
        rows, before, numbers = torch.tensor(copied).T
        return F.cross_entropy(self._number_logits(hidden.naming[rows, before]), numbers - 1)

    def _number_logits(self, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self.model.lm_head.weight[self._label_ids]).float()

    def _hidden(self, ids: torch.Tensor) -> Hidden:
        output = self.model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        naming = self.model.model.norm(output.hidden_states[self.naming_layer])
        return Hidden(ids=ids, last=output.last_hidden_state, naming=naming)


def plackett_luce(scores: torch.Tensor, present: torch.Tensor, n_ordered: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of drawing the columns in order, one after another, without replacement.

    Args:
        scores: shape (batch, places), best first.
        present: which places are filled, same shape.
        n_ordered: shape (batch,); how many leading places count. Later places only stand in the denominators.

    The places are weighted by NDCG's discount, so that the top counts most (position-aware ListMLE, Lan et al. 2014).
    """
    scores = scores.masked_fill(~present, _FAR_BELOW)
    log_remaining = scores.flip(1).logcumsumexp(1).flip(1)
    places = torch.arange(scores.shape[1])
    weight = (1.0 / torch.log2(places + 2.0)) * (places < n_ordered[:, None]) * present
    return (weight * (log_remaining - scores)).sum() / weight.sum()


def pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Stack sequences, padded on the right: under causal attention padding there changes nothing before it."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences])
