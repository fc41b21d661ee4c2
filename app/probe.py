"""`promptailor doctor --model SPEC`: one cheap request, and what it shows of a model."""

from __future__ import annotations

import time

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect
from promptailor.app.backends.messages import chat_messages
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.ranking_chat import READOUTS, Probe, RankingChat, Readout
from promptailor.app.backends.retry import is_refusal, true_reason
from promptailor.app.backends.store import ResponseStore
from promptailor.app.settings import Settings
from promptailor.prompts.assemble import assemble
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import ModelCallError, PromptailorError
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import load_catalogue

_HISTORY = ("Alien", "Blade Runner", "The Thing")
_CANDIDATES = ("Heidi", "Aliens", "Bambi")


class ModelReport(BaseModel):
    """What one request has shown."""

    model: str
    answer: str
    valid: bool
    """Whether the answer names every candidate once."""
    seconds: float
    """Wall clock of the request; the first may include what a server loads."""
    input_tokens: int | None
    output_tokens: int | None
    usd_per_1000_requests: float | None
    """For prompts of this length; None where the price is not known."""
    readouts: dict[Readout, str]
    """`yes`, or why not."""
    log_probs: bool
    max_candidates: int | None
    """In one prompt; more are ranked in sliding windows."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the findings as a table."""
        table = Table(box=None, show_header=False)
        tokens = "not reported" if self.input_tokens is None else f"{self.input_tokens} in, {self.output_tokens} out"
        price = self.usd_per_1000_requests
        table.add_row("answer", f"{self.answer!r} ({'valid' if self.valid else 'not a ranking of every candidate'})")
        table.add_row("latency", f"{self.seconds:.2f} s")
        table.add_row("tokens", tokens)
        table.add_row("price", "not known" if price is None else f"${price:,.4f} per 1,000 such requests")
        table.add_row("log-probabilities", "yes" if self.log_probs else "no")
        for readout, verdict in self.readouts.items():
            table.add_row(f"readout {readout}", verdict)
        table.add_row("candidates per prompt", str(self.max_candidates or "as its context allows"))
        yield f"[bold]{self.model}[/]"
        yield table


def probe_model(text: str) -> ModelReport:
    """Ask a model to rank three films.

    Raises:
        SpecError: no such provider, model or option.
        ModelCallError: the request failed, with the reason.
    """
    port = connect(text, settings=Settings(), store=ResponseStore(), budget=Budget())
    catalogue = load_catalogue()
    request = RankRequest(
        user_id="doctor",
        history=tuple(Item(item_id=title, title=title) for title in _HISTORY),
        candidates=tuple(Item(item_id=title, title=title) for title in _CANDIDATES),
        domain="movies",
    )
    prompt = assemble(request, catalogue.manual_prompt, catalogue, seed=0)
    started = time.perf_counter()
    probe = _ask(port, chat_messages(prompt.messages), prompt.labels)
    seconds = time.perf_counter() - started
    usage = probe.answer.usage_metadata if isinstance(probe.answer, AIMessage) else None
    price = port.price.usd(usage["input_tokens"], usage["output_tokens"]) if port.price and usage else None
    return ModelReport(
        model=port.spec,
        answer=probe.answer.text[:200],
        valid=parse_ranking(probe.answer.text, prompt.shown).report.valid,
        seconds=seconds,
        input_tokens=usage["input_tokens"] if usage else None,
        output_tokens=usage["output_tokens"] if usage else None,
        usd_per_1000_requests=None if price is None else 1_000 * price,
        readouts={readout: probe.lacks.get(readout, "yes") for readout in READOUTS},
        log_probs="first_token" not in probe.lacks,
        max_candidates=port.max_candidates,
    )


def _ask(port: ModelPort, messages: list[BaseMessage], labels: tuple[str, ...]) -> Probe:
    try:
        if isinstance(port.model, RankingChat):
            return port.model.probe(messages, labels)
        answer = port.model.invoke(messages)
        return Probe(answer=answer, lacks=dict.fromkeys(("structured", "first_token"), "LangChain's model has none"))
    except PromptailorError:
        raise
    except Exception as error:  # a vendor's client may raise anything; here it is what the user wants to know
        fix = "check the key and the model's name" if is_refusal(error) else "check that the server runs"
        raise ModelCallError(f"{port.spec}: {true_reason(error)}; {fix}") from error
