"""Every provider that LangChain knows and this package does not: `anthropic:...`, `google_genai:...`, `groq:...`."""

from __future__ import annotations

from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError


def load(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Leave the model to `init_chat_model`; options become its arguments.

    Raises:
        SpecError: LangChain does not know the provider, or its package is not installed.
    """
    try:
        options: dict[str, Any] = {"max_retries": 0, **spec.options}
        model: BaseChatModel = init_chat_model(spec.model, model_provider=spec.provider, **options)
        return model
    except ImportError as error:
        raise SpecError(f"--model {spec}: {error}".replace("\n", " ")) from None
    except ValueError:
        from promptailor.app.backends import PROVIDERS  # noqa: PLC0415 - imports this module

        known = ", ".join(PROVIDERS)
        raise SpecError(
            f"--model {spec}: unknown provider {spec.provider!r}; there are {known} and LangChain's"
        ) from None
