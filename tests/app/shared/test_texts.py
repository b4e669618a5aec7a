"""A model's words as HTML: nothing in them becomes markup, and they can be read on every colour."""

from __future__ import annotations

import re
import tomllib
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from app.shared import links, texts
from app.shared.words import escape, seen, shown_token
from atlas.charts.palette import colour
from tests import ROOT
from tests.app.shared.test_palette import lightness

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</p><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' style='position:fixed",
    "**bold** [a](javascript:alert(1)) `x` $x$",
    "&lt;b&gt;",
)
# Marks that turn or mark the direction of text, and control characters.
UNSEEN = ("\u202e", "\u202d", "\u2066", "\u2069", "\u200f", "\u061c", "\x00", "\x1b", "\x7f", "\x9b")


class Tags(HTMLParser):
    """Every tag of a text with its attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name for name, _ in attributes}))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("token", HOSTILE)
def test_hostile_tokens_stay_text(token):
    shown = Tags(texts.heat([token, "is"], [1.0, -0.5], largest=1.0, answer=0))
    assert shown.text == f"{token} is"
    assert dict(shown.tags) == {
        "p": {"class", "role", "aria-label"},
        "span": {"class", "data-value", "style"},
        "bdi": set(),
    }
    parted = Tags(texts.parted(f"same {token}", beside="same other", asked=token))
    assert {tag for tag, _ in parted.tags} == {"p", "span", "bdi", "mark"}
    assert parted.text.count(token) == 2


@pytest.mark.parametrize("mark", UNSEEN)
def test_what_works_unseen_is_shown_as_a_sign(mark):
    name = f"Par{mark}is"
    for shown in (
        seen(name),
        shown_token(name),
        texts.heat([name], [1.0], largest=1.0),
        texts.parted(name, beside="x", asked=name),
        escape(name),
    ):
        assert mark not in shown
        assert "Par\ufffdis" in shown or mark.isspace()


def test_a_cell_s_label_can_name_no_other_address(monkeypatch):
    monkeypatch.setattr(links, "here", lambda **parameters: parameters)
    cell = links.cell(links.FACT, "a#b&fact=x <b>\u202e", fact="P36:x&y#z")
    address, label = cell.split("#")
    assert address == "fact?fact=P36%3Ax%26y%23z"
    assert re.fullmatch(r"[\w%./~-]*", label)


def test_wordpieces_join_and_byte_pairs_keep_their_spaces():
    def read(*tokens):
        return Tags(texts.heat(tokens, [0.0] * len(tokens), largest=1.0)).text

    assert read("[CLS]", "az", "##erb", "##aijan", ",", "[SEP]") == "[CLS] azerbaijan , [SEP]"
    assert read("The", " cap", "ital", " of") == "The capital of"
    assert read("a", "\n", "b") == "a ⏎ b"


def test_the_colour_is_the_sign_and_its_depth_the_size():
    html = texts.heat(list("abcdef"), [2.0, -2.0, 1.0, 0.0, float("nan"), 9.0], largest=2.0)
    shades = re.findall(r"background:(#\w{6})(\w\w)", html)
    full, half = round(255 * texts.DEEPEST), round(255 * texts.DEEPEST / 2)
    assert [(shade, int(depth, 16)) for shade, depth in shades] == [
        (colour("above"), full),
        (colour("below"), full),
        (colour("above"), half),
        (colour("below"), 0),
        (colour("below"), 0),
        (colour("above"), full),
    ]
    assert re.findall(r'data-value="([^"]*)"', html) == ["+2.00", "−2.00", "+1.00", "+0.00", "–", "+9.00"]


def test_screen_readers_hear_the_sentence_and_its_extremes():
    html = texts.heat(["The", " cap", " of"], [0.25, 3.0, -1.5], largest=3.0, answer=2)
    (said,) = re.findall(r'aria-label="([^"]*)"', html)
    assert unescape(said) == (
        "The cap of. Activation: largest +3.00 at “cap”, smallest −1.50 at “of”. "
        "−1.50 where the answer is read."
    )
    assert texts.describe_heat(["a"], [float("nan")]) == "a"
    assert texts.heat([], [], largest=0.0, answer=0).count("<span") == 0


@pytest.mark.parametrize(
    ("text", "beside", "marked"),
    [
        (" Paris, the city", " Paris, the city", None),
        (" Paris, a city", " Paris, the city", "a"),
        (" Lyon", " Paris, the city", "Lyon"),
        (" Paris, the", " Paris, the city", "(ends)"),
        (" Paris, the city of", " Paris, the city", "of"),
        ("", "", None),
        (" Paris", None, None),
    ],
)
def test_the_first_word_that_differs_is_marked(text, beside, marked):
    html = texts.parted(text, beside=beside, asked="The capital is")
    found = re.findall(r"<mark[^>]*>(.*?)</mark>", html)
    assert [re.sub("<[^>]*>", "", each).strip() for each in found] == ([] if marked is None else [marked])


def test_lines_end_where_the_text_s_do():
    html = texts.parted(" Paris.\n\n The\tcity", beside=" Paris.\n\n The city", asked="It is")
    assert re.sub("<(?!br)[^>]*>", "", html) == "It is  Paris.<br>The city"
    assert "mark" not in html


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sign", ["above", "below"])
def test_text_can_be_read_on_the_deepest_colour(theme, sign):
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))["theme"][theme]

    def channels(code: str) -> np.ndarray:
        return np.array([int(code[place : place + 2], 16) for place in (1, 3, 5)])

    ground, text = config["backgroundColor"], config["textColor"]
    mixed = texts.DEEPEST * channels(colour(sign)) + (1 - texts.DEEPEST) * channels(ground)
    seen_on = "#" + "".join(f"{round(each):02X}" for each in mixed)
    low, high = sorted((lightness(seen_on), lightness(text)))
    assert (high + 0.05) / (low + 0.05) >= 4.5
