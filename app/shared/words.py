"""Values as text for the page: escaped, counted, or said not to be measured.

st.markdown(f"**{escape(subject)}**")         # text from data never becomes markdown
plural(2, "fact"), formatted(None, ".2f")     # "2 facts", "not measured in this atlas"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from atlas.neuron import OBJECT_SLOT, Neuron
from atlas.numbers import NOT_MEASURED

_BLANK = "____"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=/@\"'])")
# Control characters, and marks that turn the direction of the text after them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def seen(text: Any) -> str:
    """Text from data with a sign in place of each character that works without being seen."""
    return _UNSEEN.sub("\ufffd", str(text))


def escape(text: Any) -> str:
    """Text from data or a visitor on one line, with markdown's characters escaped."""
    return _MARKDOWN.sub(r"\\\1", seen(" ".join(str(text).split())))


def is_missing(value: Any) -> bool:
    """Whether a value is null: None, NaN, NaT or pd.NA (a list is a value)."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def formatted(value: Any, form: str = ",.0f") -> str:
    """The value by a format specification; null gives `NOT_MEASURED`."""
    return NOT_MEASURED if is_missing(value) else format(value, form)


def percentage(value: Any, digits: int = 0) -> str:
    """A share as a percentage; null gives `NOT_MEASURED`."""
    return formatted(value, f".{digits}%")


def plural(n: Any, noun: str) -> str:
    """`1 fact`, `2 facts`; a null number gives `facts not measured in this atlas`."""
    if is_missing(n):
        return f"{noun}s {NOT_MEASURED}"
    return f"{int(n):,} {noun}{'' if int(n) == 1 else 's'}"


def shown_token(token: Any) -> str:
    """A token without the white space around it; one that is only white space is quoted."""
    text = str(token)
    return seen(text.strip()) or repr(text)


def token_list(pairs: Any, limit: int | None = 8, *, missing: str = NOT_MEASURED) -> str:
    """The tokens of a promoted or suppressed list; a null or empty one gives `missing`."""
    return ", ".join(shown_token(pair["token"]) for pair in token_pairs(pairs)[:limit]) or missing


def promotes(pairs: Any, limit: int) -> str:
    """`promotes Paris, cities`; "" where no token was read out."""
    tokens = token_list(pairs, limit, missing="")
    return f"promotes {tokens}" if tokens else ""


def joined(*parts: str) -> str:
    """The parts that are not empty, on one line."""
    return " · ".join(filter(None, parts))


def token_pairs(pairs: Any) -> list[Mapping[str, Any]]:
    """The {token, logit} of a promoted or suppressed list that have a token; a null list is an empty one."""
    filled = [] if is_missing(pairs) else [pair for pair in pairs if not is_missing(pair)]
    return [pair for pair in filled if not is_missing(pair["token"])]


def with_blank(text: Any) -> str:
    """A prompt with a line where its answer goes; "" where it is null."""
    return "" if is_missing(text) else text.replace(OBJECT_SLOT, _BLANK)


def fact_name(subject: str, answer: str) -> str:
    return f"{subject} → {answer}"


def fact_label(fact: Mapping[str, Any]) -> str:
    """A fact's name and the label of its relation, where it has one."""
    name, label = fact_name(fact["subject"], fact["object"]), fact.get("label")
    return name if is_missing(label) or not label else f"{name} · {label}"


def relation_name(row: Any) -> str:
    """The label of a row's relation, or its id where it has none."""
    return row.relation_id if is_missing(row.label) or not row.label else row.label


def neurons_of(rows: pd.DataFrame) -> list[Neuron]:
    """The neurons of rows with layer and neuron."""
    return [
        Neuron(int(layer), int(neuron)) for layer, neuron in zip(rows["layer"], rows["neuron"], strict=True)
    ]


def about_fact(row: Any) -> str:
    """Relation, whether it is known, probability and number of neurons of a fact, on one line."""
    parts = [relation_name(row)]
    if not is_missing(row.known):
        parts.append("known" if row.known else "not known")
    if not is_missing(row.mean_probability):
        parts.append(f"probability {row.mean_probability:.2f}")
    return " · ".join([*parts, plural(row.n_neurons, "neuron")])
