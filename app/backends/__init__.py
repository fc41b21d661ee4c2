"""Model back ends: one string names a model, one place resolves it.

`provider:model?option=value&option=value`, for example `embedded:ml-100k?readout=text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from promptailor.app.settings import Settings
from promptailor.prompts.errors import MissingExtraError, SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A parsed model string."""

    provider: str
    model: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Split `provider:model?options`; a text without a provider is a `SpecError`."""
        name, _, query = text.partition("?")
        provider, colon, model = name.partition(":")
        if not (colon and provider and model):
            raise SpecError(f"--model {text!r}: write provider:model, with a provider of {', '.join(_PROVIDERS)}")
        return cls(provider=provider, model=model, options=dict(parse_qsl(query, keep_blank_values=True)))

    def __str__(self) -> str:
        """Write the string that parses back to this spec, options sorted."""
        query = "&".join(f"{k}={v}" for k, v in sorted(self.options.items()))
        return f"{self.provider}:{self.model}" + (f"?{query}" if query else "")

    def refuse_unknown(self, *known: str) -> None:
        """Raise a `SpecError` for an option the provider does not have."""
        for option in self.options:
            if option not in known:
                raise SpecError(
                    f"--model {self}: unknown option {option!r}; {self.provider} has {', '.join(known) or 'none'}"
                )


def resolve_model(text: str, settings: Settings) -> BaseChatModel:
    """Return the chat model a string names.

    Raises:
        SpecError: no such provider, model or option; the message lists what exists.
        MissingExtraError: the provider's package is not installed.
    """
    spec = ModelSpec.parse(text)
    return _PROVIDERS.get(spec.provider, _langchain)(spec, settings)


def reads_labels(text: str) -> bool:
    """Whether the model runs in process and takes the candidates' labels beside the messages."""
    return ModelSpec.parse(text).provider in _IN_PROCESS


def _embedded(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    spec.refuse_unknown("readout", "threads", "max_batch_size")
    try:
        from promptailor.app.backends.embedded import load_embedded  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise MissingExtraError(f"embedded: ({error.name} is not installed)", "local") from None
    return load_embedded(spec.model, settings=settings, options=spec.options)


def _planted(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    from promptailor.app.backends.planted import PlantedChat  # noqa: PLC0415 - only tests and demos need the world

    spec.refuse_unknown("seed")
    return PlantedChat.from_world(spec.model, seed=int(spec.options.get("seed", "0")))


def _openai(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    spec.refuse_unknown("base_url", "temperature", "max_tokens")
    try:
        from langchain_openai import ChatOpenAI  # noqa: PLC0415 - optional extra
    except ImportError:
        raise MissingExtraError("openai:", "openai") from None
    base_url, api_key = spec.options.get("base_url") or settings.openai_base_url, settings.openai_api_key
    if api_key is None and base_url is None:
        raise SpecError(f"--model {spec}: set OPENAI_API_KEY, or name a compatible server with ?base_url=URL")
    temperature, max_tokens = spec.options.get("temperature"), spec.options.get("max_tokens")
    return ChatOpenAI(
        model=spec.model,
        base_url=base_url,
        api_key=api_key or SecretStr("none"),  # a server of one's own asks for none, but the client insists on one
        temperature=float(temperature) if temperature else 0.0,
        max_completion_tokens=int(max_tokens) if max_tokens else None,
        max_retries=0,
    )


def _langchain(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Leave every other provider to LangChain."""
    try:
        options: dict[str, Any] = {"max_retries": 0, **spec.options}
        model: BaseChatModel = init_chat_model(spec.model, model_provider=spec.provider, **options)
        return model
    except ImportError as error:
        raise SpecError(f"--model {spec}: {error}".replace("\n", " ")) from None
    except ValueError:
        known = ", ".join(_PROVIDERS)
        raise SpecError(
            f"--model {spec}: unknown provider {spec.provider!r}; there are {known} and LangChain's"
        ) from None


_PROVIDERS: dict[str, Callable[[ModelSpec, Settings], BaseChatModel]] = {
    "embedded": _embedded,
    "planted": _planted,
    "openai": _openai,
}
_IN_PROCESS = frozenset({"embedded", "planted"})
