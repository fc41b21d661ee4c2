"""OpenAI and every server that speaks its protocol."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError


def load(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Make a client.

    Raises:
        SpecError: neither a key nor a server is given, or an option makes no sense.
    """
    spec.refuse_unknown("base_url", "temperature", "max_tokens")
    base_url, api_key = spec.text("base_url") or settings.openai_base_url, settings.openai_api_key
    if api_key is None and base_url is None:
        raise SpecError(f"--model {spec}: set OPENAI_API_KEY, or name a compatible server with ?base_url=URL")
    return ChatOpenAI(
        model=spec.model,
        base_url=base_url,
        api_key=api_key or SecretStr("none"),  # a server of one's own asks for none, but the client insists on one
        temperature=spec.number("temperature", 0.0),
        max_completion_tokens=spec.whole("max_tokens", 1) if spec.text("max_tokens") else None,
        max_retries=0,
    )
