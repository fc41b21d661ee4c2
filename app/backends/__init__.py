"""Model back ends: one string names a model, one table says which module makes it.

A back end is a module with `load(spec, settings) -> BaseChatModel`. Any provider that is not in the table is left to
LangChain's `init_chat_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from langchain_core.language_models import BaseChatModel

from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import MissingExtraError

__all__ = ["PROVIDERS", "ModelSpec", "Provider", "resolve_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A kind of model: where its code is, and what has to be installed for it."""

    module: str
    """Imported when a model of the kind is first asked for, because some take seconds."""
    needs: str | None = None
    """The package without which the module cannot be imported; None where the core has all."""
    extra: str | None = None
    """The extra that brings it."""
    example: str
    about: str


PROVIDERS: Mapping[str, Provider] = {
    "embedded": Provider(
        module="promptailor.app.backends.embedded",
        needs="torch",
        extra="local",
        example="embedded:ml-100k",
        about="the small model that ships with the package",
    ),
    "transformers": Provider(
        module="promptailor.app.backends.local",
        needs="torch",
        extra="local",
        example="transformers:PATH_OR_ID",
        about="any causal language model, in process, on GPU or CPU",
    ),
    "vllm": Provider(
        module="promptailor.app.backends.vllm",
        needs="vllm",
        extra="vllm",
        example="vllm:PATH_OR_ID",
        about="vLLM, in process",
    ),
    "openai": Provider(
        module="promptailor.app.backends.openai",
        needs="langchain_openai",
        extra="openai",
        example="openai:MODEL",
        about="OpenAI, and every compatible server by base_url",
    ),
    "community": Provider(
        module="promptailor.app.backends.community",
        needs="langchain_community",
        extra="community",
        example="community:ChatTongyi",
        about="a chat model of langchain-community, which is no longer maintained",
    ),
    "planted": Provider(
        module="promptailor.app.backends.planted",
        example="planted:1",
        about="a simulated model whose best prompts are known, for tests",
    ),
}
_OTHERS = "promptailor.app.backends.langchain"


def resolve_model(text: str, settings: Settings) -> BaseChatModel:
    """Return the chat model a string names.

    Raises:
        SpecError: no such provider, model or option; the message lists what exists.
        MissingExtraError: the provider's package is not installed.
    """
    spec = ModelSpec.parse(text)
    provider = PROVIDERS.get(spec.provider)
    try:
        load: Callable[[ModelSpec, Settings], BaseChatModel]
        load = import_module(provider.module if provider else _OTHERS).load
    except ImportError as error:
        if provider is None or provider.extra is None:
            raise
        raise MissingExtraError(f"{spec.provider}: ({error.name} is not installed)", provider.extra) from None
    return load(spec, settings)
