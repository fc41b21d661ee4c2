"""Every error Promptailor raises on purpose.

PromptailorError
├── InputError          what the caller gave is wrong; the message names the field and the fix (exit code 2)
│   ├── CatalogueError  the pattern catalogue or a domain file
│   ├── DataError       a data set's files or spec
│   ├── SpecError       a model, policy or method string that names nothing
│   └── CheckpointError a saved policy that is damaged or was made for something else
├── MissingExtraError   an optional dependency is not installed; the message is the install line
├── BudgetExceededError the next call would pass the budget; raised before the call is made
│   └── RunInterruptedError  the user has asked the run to stop; treated alike, so that it ends with the best so far
└── ModelCallError      a model failed, with the true reason, after every retry
"""

from __future__ import annotations

from typing import Literal


class PromptailorError(Exception):
    """Base of every error raised on purpose; its text is one line that names the fix."""


class InputError(PromptailorError):
    """The caller's input is wrong."""


class CatalogueError(InputError):
    """The pattern catalogue, or a domain's word list, is wrong."""


class DataError(InputError):
    """A data set's files or its spec are missing, damaged or inconsistent."""


class SpecError(InputError):
    """A model, policy or method string names nothing that exists."""


class CheckpointError(InputError):
    """A saved policy is damaged, or was made for another catalogue, model or schema."""


class MissingExtraError(PromptailorError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'promptailor[{extra}]'")


class BudgetExceededError(PromptailorError):
    """The next call would pass the budget, so it was not made."""

    stopped: Literal["budget", "interrupted"] = "budget"
    """How a run that ends here says why."""


class RunInterruptedError(BudgetExceededError):
    """The user has asked the run to stop, so the next call was not made."""

    stopped = "interrupted"


class ModelCallError(PromptailorError):
    """A model call failed for good; the message carries the true reason."""
