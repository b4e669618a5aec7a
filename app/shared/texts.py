"""A model's words as HTML: tokens coloured by a neuron's activation, and where two texts part.

    draw(heat(tokens, activations, largest=3.4, answer=5))     # hover shows a token's activation
    draw(parted(" a city in", beside=" Paris, the"))           # the first different word is marked

Words come from models and files: all of them are escaped, and no other module writes HTML. Colours are those
of `PALETTE`, thinned over the page's own ground, so the text keeps the page's own colour, light or dark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

import streamlit as st

from app.shared.words import seen
from atlas.charts.palette import colour

LONGEST = 1000  # tokens
# With this much of it over the page's ground, text can be read on every colour (a test measures it).
DEEPEST = 0.6

_MARK = f'<mark style="background:{colour("above")}66">'


def draw(*blocks: str) -> None:
    """HTML of this module's functions, one block below the other."""
    st.html("".join(blocks))


def link(address: str, text: str) -> str:
    """A link with an escaped text."""
    return f'<a href="{escape(address)}">{_isolated(text)}</a>'


def heat(
    tokens: Sequence[str], activations: Sequence[float], *, largest: float, answer: int | None = None
) -> str:
    """A paragraph of tokens, each on the colour of its activation's sign, the deeper the nearer to `largest`.

    answer: the place of the token that the answer is read from. Screen readers hear the sentence and its
    largest and smallest activation.
    """
    values = [float(value) for value in activations[:LONGEST]]
    spans = [
        f'{before}<span class="{"answer" if place == answer else ""}" data-value="{signed(value)}" '
        f'style="background:{_shade(value, largest)}"><bdi>{escape(piece)}</bdi></span>'
        for place, ((before, piece), value) in enumerate(zip(_pieces(tokens), values, strict=False))
    ]
    said = escape(describe_heat(tokens, values, answer))
    return f'<p class="words" role="img" aria-label="{said}">{"".join(spans)}</p>'


def describe_heat(tokens: Sequence[str], values: Sequence[float], answer: int | None = None) -> str:
    """The tokens as a sentence, and their largest, smallest and the answer's activation in words."""
    pairs = [pair for pair in zip(map(seen, tokens), values, strict=False) if math.isfinite(pair[1])]
    sentence = "".join(before + piece for before, piece in _pieces(tokens))
    if not pairs:
        return sentence
    (high, most), (low, least) = (pick(pairs, key=lambda pair: pair[1]) for pick in (max, min))
    at_answer = ""
    if answer is not None and 0 <= answer < len(values):
        at_answer = f" {signed(values[answer])} where the answer is read."
    return (
        f"{sentence}. Activation: largest {signed(most)} at “{high.strip()}”, smallest {signed(least)} at "
        f"“{low.strip()}”.{at_answer}"
    )


def signed(value: float) -> str:
    """`+3.40`, `−0.17`; a dash where there is no number."""
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _shade(value: float, largest: float) -> str:
    """The colour of the sign; the share of its opacity is that of `value` in `largest`."""
    part = abs(value) / largest if largest > 0 and math.isfinite(value) else 0.0
    opacity = round(255 * DEEPEST * min(part, 1.0))
    return f"{colour('above' if value > 0 else 'below')}{opacity:02X}"


def _pieces(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """Tokens as they stand in a text, each with the space before it.

    Byte pairs hold their spaces; WordPieces say which of them go on with a word.
    """
    shown = [seen(str(token).replace("\n", "⏎")) for token in tokens[:LONGEST]]
    if any(token.startswith(" ") for token in shown):
        return [("", token) for token in shown]
    joins = [not place or token.startswith("##") for place, token in enumerate(shown)]
    return [
        ("" if joined else " ", token.removeprefix("##")) for token, joined in zip(shown, joins, strict=True)
    ]


def parted(text: str, *, beside: str | None = None, asked: str = "") -> str:
    """A paragraph with a text after what was asked; its first word that differs from `beside` is marked.

    Lines end where the text's do; empty ones are left out.
    """
    words = re.findall(r"\s*\S+", re.sub(r"\s*\n\s*", "\n", text))
    others = [] if beside is None else beside.split()
    same = 0
    while same < min(len(words), len(others)) and words[same].strip() == others[same]:
        same += 1
    shown = [_isolated(word) for word in words]
    if beside is not None and same < len(words):
        shown[same] = f"{_MARK}{shown[same]}</mark>"
    elif beside is not None and same < len(others):
        shown.append(f" {_MARK}(ends)</mark>")
    return f'<p class="words"><span class="asked">{_isolated(asked)}</span> {"".join(shown)}</p>'


def _isolated(text: str) -> str:
    lines = (f"<bdi>{escape(seen(line))}</bdi>" for line in text.replace("\t", " ").split("\n"))
    return "<br>".join(lines)
