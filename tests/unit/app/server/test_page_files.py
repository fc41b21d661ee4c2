"""The page's files: nothing from elsewhere, nothing inline, text only, and colours that can be read in both themes."""

from __future__ import annotations

import re
from importlib import resources

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from promptailor.app.server.routes import ASSETS

FILES = {
    path.name: path.read_text("utf-8")
    for path in resources.files("promptailor.app.server").joinpath("static").iterdir()
}
TEXT_ON = (
    ("ink", "paper"), ("ink", "card"), ("ink", "sunk"), ("quiet", "paper"), ("quiet", "card"), ("quiet", "sunk"),
    ("accent", "paper"), ("accent", "card"), ("accent-ink", "accent"), ("tint-ink", "tint"), ("gone", "tint"),
    ("gone", "sunk"), ("alarm", "alarm-tint"),
)  # fmt: skip


def test_what_is_served_is_what_is_there() -> None:
    assert {*FILES} == {"index.html", *ASSETS}


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    page = FILES["index.html"]
    assert re.findall(r'(?:src|href)="(?!/|#)', page) == []
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []
    for name, text in FILES.items():
        addresses = [url for url in re.findall(r"https?://\S+", text) if "www.w3.org" not in url]
        assert addresses == [], name


def test_scripts_write_text_and_never_markup() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"
    for name, text in FILES.items():
        if name.endswith(".js"):
            assert re.findall(forbidden, text) == [], name


def test_every_field_has_a_label_and_every_picture_a_text() -> None:
    page = FILES["index.html"]
    labelled = {*re.findall(r'<label[^>]* for="([^"]+)"', page)}
    assert {*re.findall(r'<textarea id="([^"]+)"', page)} <= labelled
    assert all("alt=" in picture for picture in re.findall(r"<img[^>]*>", page))
    assert '<html lang="en">' in page


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(theme: str) -> None:
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", FILES["app.css"])
    wanted = ":root " if theme == "light" else ':root[data-theme="dark"] '
    [body] = [body for selector, body in blocks if selector == wanted]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", body))
    for text, surface in TEXT_ON:
        assert contrast(colours[text], colours[surface]) >= 4.5, (text, surface)


def test_both_ways_into_the_dark_paint_alike() -> None:
    themes = re.findall(r"color-scheme: dark;([^}]*)\}", FILES["app.css"])
    first, second = (re.findall(r"--[\w-]+: [^;]+", theme) for theme in themes)
    assert first == second


def contrast(one: str, other: str) -> float:
    """Return the ratio that WCAG 2 defines."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
