"""The command line without a process of its own, whose imports alone are seconds of processor time."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

import pytest

from promptailor.app.cli import main


def run_here(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command in this process, with these variables on top of the test's own.

    Whatever `promptailor` itself would not catch is raised here, as it would be a traceback there.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["promptailor", *arguments])
        patch.setenv("PROMPTAILOR_DEBUG", "")  # so that `--debug` ends with this command
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
