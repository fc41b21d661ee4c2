"""The first Ctrl-C stops a budget, the second the process."""

from __future__ import annotations

import signal

import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.prompts.errors import RunInterruptedError


def test_the_first_ctrl_c_lets_no_further_request_out_and_the_second_ends_it() -> None:
    budget, handler = Budget(), signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(budget):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(RunInterruptedError, match="stopped by the user"):
            budget.reserve()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_within_a_run_is_ended_by_the_second_as_well() -> None:
    budget = Budget()
    with stop_on_interrupt(budget), stop_on_interrupt(budget):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
