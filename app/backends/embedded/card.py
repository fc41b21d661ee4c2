"""The model card."""

from __future__ import annotations

from promptailor.app.backends.embedded.folder import LmManifest


def model_card(manifest: LmManifest) -> str:
    return ""
