"""From a model string to a port: `provider:model?options`, or several with `|` between, the next for when one fails.

Options of the port, for every provider that is called over a network: `concurrency` (requests in flight, 64), `rpm`
(requests per minute), `attempts` (requests per answer, 8), `timeout` (seconds per request, 60). They change no answer
and are no part of the cache key.
"""

from __future__ import annotations

from promptailor.app.backends import ModelSpec, resolve_model
from promptailor.app.backends.budget import Budget
from promptailor.app.backends.pace import APART_S, Pace
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.prices import PriceTable
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.backends.replay import REPLAY, replay_port
from promptailor.app.backends.retry import RetryPolicy
from promptailor.app.backends.store import ResponseStore
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

_PACE = ("concurrency", "rpm", "attempts")
_TIMEOUT = "timeout"
_DEFAULT_TIMEOUT_S = 60.0
_CONCURRENCY = 64


def connect(text: str, *, settings: Settings, store: ResponseStore, budget: Budget) -> ModelPort:
    """Put the model that a string names behind its cache, budget, pace and retries.

    Args:
        text: the model string.
        settings: paths, keys and prices.
        store: where its answers are kept.
        budget: what it may cost.

    Raises:
        SpecError: no such provider, model or option, or a money budget for a model without a known price.
        MissingExtraError: the provider's package is not installed.
    """
    first, *others = (ModelSpec.parse(part.strip()) for part in text.split("|"))
    if first.provider == REPLAY:
        return replay_port(first, store=store)
    fallback = connect("|".join(map(str, others)), settings=settings, store=store, budget=budget) if others else None
    return _open(first, settings, store, budget, fallback)


def content_spec(text: str) -> ModelSpec:
    """Return what of a model string answers depend on: the first model, without its pace."""
    return ModelSpec.parse(text.partition("|")[0].strip()).without(*_PACE, _TIMEOUT)


def _open(
    spec: ModelSpec, settings: Settings, store: ResponseStore, budget: Budget, fallback: ModelPort | None
) -> ModelPort:
    model = resolve_model(str(spec.without(*_PACE)), settings)
    in_process = isinstance(model, RankingChat) and model.in_process
    if in_process and (unfit := next((name for name in (*_PACE, _TIMEOUT) if name in spec.options), None)):
        raise SpecError(f"--model {spec}: {unfit} is for models behind a network")
    price = PriceTable.load(settings.prices).of(spec)
    if budget.usd is not None and price is None:
        raise SpecError(
            f"--budget usd: no price is known for {spec.provider}:{spec.model}; "
            "write it into a file and name that in PROMPTAILOR_PRICES"
        )
    port = ModelPort(
        spec=str(spec.without(*_PACE, _TIMEOUT)),
        model=model,
        store=store,
        budget=budget,
        price=price,
        timeout_s=None if in_process else spec.number(_TIMEOUT, _DEFAULT_TIMEOUT_S),
        retry=RetryPolicy(attempts=spec.whole("attempts", RetryPolicy.attempts)),
        pace=Pace(
            concurrency=spec.whole("concurrency", _CONCURRENCY),
            requests_per_minute=spec.number("rpm", 0.0) or None,
            apart_s=0.0 if in_process else APART_S,
        ),
        fallback=fallback,
    )
    if "max_tokens" in spec.options:
        port.max_output_tokens = spec.whole("max_tokens", 1)
    return port
