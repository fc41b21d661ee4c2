"""Chat models of langchain-community: `community:ChatTongyi?model=qwen-max`."""

from __future__ import annotations

import logging
import warnings
from difflib import get_close_matches
from functools import cache

from langchain_core.language_models import BaseChatModel

from promptailor.app.backends.arguments import faults_of, typed_arguments
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what there is to say, `_warn_once` says
    from langchain_community import chat_models

logger = logging.getLogger(__name__)


def load(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Make a chat model by the name of its class; options become its arguments.

    Raises:
        SpecError: no such class, its package is not installed, or an option makes no sense.
    """
    arguments = typed_arguments(spec)
    if spec.model not in chat_models.__all__:
        similar = get_close_matches(spec.model, chat_models.__all__, n=5, cutoff=0.4) or chat_models.__all__
        raise SpecError(
            f"--model {spec}: langchain-community has no chat model of that name; it has {', '.join(similar)}"
        )
    _warn_once()
    with faults_of(spec), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: BaseChatModel = getattr(chat_models, spec.model)(**arguments)
    return model


@cache
def _warn_once() -> None:
    logger.warning(
        "langchain-community is no longer maintained: prefer openai:MODEL?base_url=URL, or the provider's own package"
    )
