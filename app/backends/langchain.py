"""Every provider that LangChain knows and this package does not: `anthropic:...`, `google_genai:...`, `groq:...`."""

from __future__ import annotations

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from promptailor.app.backends.arguments import faults_of, typed_arguments
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

_UNKNOWN = "Unsupported provider"
"""How `init_chat_model` begins when it does not know a provider."""


def load(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Leave the model to `init_chat_model`; options become its arguments.

    Raises:
        SpecError: LangChain does not know the provider, its package is not installed, or an option makes no sense.
    """
    options = {"max_retries": 0, **typed_arguments(spec)}
    with faults_of(spec):
        try:
            model: BaseChatModel = init_chat_model(spec.model, model_provider=spec.provider, **options)
        except ValueError as error:
            if not str(error).startswith(_UNKNOWN):
                raise
            from promptailor.app.backends import PROVIDERS  # noqa: PLC0415 - imports this module

            known = ", ".join(PROVIDERS)
            raise SpecError(f"unknown provider {spec.provider!r}; there are {known} and LangChain's") from None
    return model
