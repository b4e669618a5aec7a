"""What experiments found, in plain words and with the choices that go with them; for several pages.

    ratio = evidence_show.choose_ratio()                              # ?ratio=
    st.markdown(evidence_show.verdict(rows, "suppress", ratio=ratio))  # with the strongest control

A sentence says so when a control does as much, or when amplifying does not raise: the numbers decide.
"""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from app.shared import address
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, plural
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.queries.evidence import Judged
from atlas.store.atlas import Atlas

RATIOS = {"paper": "The paper's ratio", "replication": "The replication's"}
RATIO_SAID = {
    "paper": "The paper's ratio: mean change ÷ mean probability.",
    "replication": "The replication's ratio: mean of each prompt's change ÷ probability.",
}
# A control that does this share of what the own neurons do …
FARTHER, NEARLY, PARTLY = 1.1, 0.75, 0.25

CONTROLS = {
    "random": "as many random neurons of the same layers",
    "matched": "as many neurons of the same layers that come nearest in activation",
    "baseline": "as many of the most active neurons",
    "unrelated": "the same neurons on unrelated facts",
}


def groups_said(rows: pd.DataFrame | None = None) -> str:
    """What the groups are; with rows of `evidence.effects`, also how active the controls are."""
    active = {} if rows is None else rows.groupby("group")["activity"].first().astype(float).dropna()
    near, most = (
        f" ({active[group]:.2f} × as active)" if group in active else "" for group in ("matched", "baseline")
    )
    return (
        "×0 suppresses, ×2 amplifies: the fact's own neurons; as many random ones of the same layers; as "
        f"many of these layers that come nearest in activation on its prompts{near}; as many that are the "
        f"most active there{most}, the paper's baseline; its own again while unrelated facts are asked."
    )


def choose_ratio() -> str:
    """The paper's ratio, or the replication's, as the URL says."""
    return address.one_of("Ratio", "ratio", RATIOS, label_visibility="collapsed")


def effects_of(
    atlas: Atlas, *, relation: str = "all", templates: str | None = None
) -> tuple[pd.DataFrame, str]:
    """Rows of `evidence.effects` and whose they are: of known facts, or of all where none is known.

    No rows where the own neurons were not measured.
    """
    for facts in ("known", "all"):
        rows = ask(evidence.effects, atlas, relation=relation, facts=facts, templates=templates)
        if (rows["group"] == "own").any():
            return rows, facts
    return rows.head(0), "known"


# In words --------------------------------------------------------------------------------------------


def verdict(rows: pd.DataFrame, intervention: str, *, ratio: str = "paper") -> str:
    """What an intervention does and how much of it a control does, too, in markdown; "" if not measured.

    `rows`: as `evidence.effects`, of one kind of templates.
    """
    found = evidence.judged(rows, intervention, ratio=ratio)
    if found is None:
        return ""
    span = f" (95 % interval {signed_percent(found.low)} to {signed_percent(found.high)})"
    change = f"**{signed_percent(found.own)}**{'' if math.isnan(found.low) else span}"
    if intervention == "suppress":
        does, does_not = "Suppressing a fact's neurons", "does not lower the probability of its answer"
    else:
        does, does_not = "Amplifying them", "does not raise it"
    if not found.expected:
        chance = ", nothing that can be told from no change" if found.none else ""
        return f"**{does} {does_not}:** {change}{chance}. {_as_far(found)}".strip()
    moves = "changes the probability of its answer by" if intervention == "suppress" else "changes it by"
    return f"{does} {moves} {change}. {_beside(found)}"


def _beside(found: Judged) -> str:
    """How much of the expected effect the strongest control has."""
    if found.control is None or signed_percent(found.beside) == signed_percent(0):
        return "No control moves it that way."
    by = f"{CONTROLS[found.control]}, {signed_percent(found.beside)}"
    if found.share >= FARTHER:
        return f"**A control does more:** {by}."
    if found.share >= NEARLY:
        return f"**A control does about as much:** {by}."
    if found.share >= PARTLY:
        return f"A control does {found.share:.0%} of that: {by}."
    return f"No control comes near; the strongest is {by}."


def _as_far(found: Judged) -> str:
    """Beside an effect that is not the expected one: the control that moves it as far, if one does."""
    if found.control is None or found.share < NEARLY:
        return ""
    how = "as far" if found.share < FARTHER else "farther"
    return f"A control moves it {how}: {CONTROLS[found.control]}, {signed_percent(found.beside)}."


def counted(rows: pd.DataFrame, facts: str) -> str:
    """How many facts and prompts stand behind the own neurons' numbers."""
    own = rows[rows["group"] == "own"]
    about = {"known": "known fact", "unknown": "unknown fact", "all": "fact"}[facts]
    n_prompts = own.groupby("templates")["n_prompts"].max().sum()
    none_known = ", none of which the model knows" if facts == "all" else ""
    return f"{plural(own['n_facts'].max(), about)}{none_known}, {plural(n_prompts, 'prompt')}"


def absent(atlas: Atlas, table: str, what: str) -> str:
    """Why there is nothing to show of an experiment."""
    why = "not in the sample that was measured" if atlas.measured(table) else NOT_MEASURED
    return f"{what}: {why}."


def chosen_view(label: str, name: str, options: dict[str, str]) -> str:
    """One of a few views, as the URL says; a single one needs no choice."""
    if len(options) == 1:
        return next(iter(options))
    return address.one_of(label, name, options, label_visibility="collapsed")


def note(text: str) -> None:
    """A caption of text that is no markdown."""
    st.caption(escape(text))
