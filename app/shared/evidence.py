"""What experiments found, in sentences; for several pages.

    report = judged_report()                              # every claim in every atlas at hand
    ratio = choose_ratio(rows)                            # ?ratio=
    st.markdown(verdict(rows, "suppress", ratio=ratio))   # with the strongest control

The numbers decide: the sentences name a control that does as much, and an amplification that does not raise.
"""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from app.shared import address, resources
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, plural
from atlas import claims, queries
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.queries.evidence import ASKED_GROUPS, CONTROLS, TOP_GROUPS, Judged
from atlas.store.atlas import Atlas

VERDICT_NAMES = {
    claims.Verdict.FAILS: ":orange[does not hold]",
    claims.Verdict.HOLDS: ":green[holds]",
    claims.Verdict.UNDECIDED: "is undecided",
    claims.Verdict.NOT_MEASURED: "is not measured",
}
RATIO_DEFINITIONS = {
    "paper": "The paper's ratio: mean change ÷ mean probability.",
    "replication": "The replication's ratio: mean of each prompt's change ÷ probability.",
}
# A control that does this share of what the fact's own neurons do …
_FARTHER, _NEARLY, _PARTLY = 1.1, 0.75, 0.25

CONTROL_NAMES = {
    "random": "random neurons",
    "matched": "activation-matched neurons",
    "contribution_matched": "contribution-matched neurons",
    "baseline": "most active neurons",
    "unrelated": "its own neurons on unrelated facts",
}


def judged_report() -> claims.Report:
    """Every claim of the thesis in every atlas at hand that can be opened."""
    return claims.judge([measured for _, measured in resources.glances(claims.measure)])


def say_claim(row: claims.Row, verdict: claims.Verdict) -> str:
    """A claim with the models that it has this verdict in, and their numbers, in markdown."""
    numbers = "; ".join(
        f"{escape(cell.measured.title)}: {escape(cell.reading.estimate.text())}"
        for cell in row.having(verdict)
        if cell.reading.estimate is not None
    )
    return f"**{escape(row.claim.says)}** This {VERDICT_NAMES[verdict]}{f' in {numbers}' if numbers else ''}."


def describe_groups(rows: pd.DataFrame) -> str:
    """What the groups are that rows of effects have; with a column activity, also how active they are."""
    groups = set(rows["group"])
    activity = rows.groupby("group")["activity"].first().astype(float).dropna() if "activity" in rows else {}
    words = {
        "random": "random neurons of the same layers",
        "matched": "activation-matched ones",
        "contribution_matched": "ones that write about as much",
        "baseline": "the most active ones (the paper's baseline)",
    }
    others = [
        text + (f", {activity[group]:.2f} × as active" if group in activity and group != "random" else "")
        for group, text in words.items()
        if group in groups
    ]
    asked = "unrelated facts"
    if "same_relation" in groups:
        asked = "facts of its relation, of its answer, of both and of neither"
    beside = [f"as many {'; '.join(others)}"] if others else []
    beside += [f"the fact's own neurons on {asked}"] if groups & set(ASKED_GROUPS) else []
    them = "the fact's own neurons" if others else "it"
    return f"×0 suppresses, ×2 amplifies. Beside {them}: {'; and '.join(beside)}."


def split_groups(rows: pd.DataFrame) -> list[tuple[pd.DataFrame, str]]:
    """Rows of effects in two: other facts asked, and other neurons changed, each with what it shows.

    Together where other facts of the relation were not asked.
    """
    if not rows["group"].isin(ASKED_GROUPS[:-1]).any():
        return [(rows[~rows["group"].isin(TOP_GROUPS)], ", beside the controls")]
    parts = (
        (ASKED_GROUPS, ", beside other facts"),
        (CONTROLS, ", beside other neurons"),
    )
    chosen = ((rows[rows["group"].isin(["own", *groups])], text) for groups, text in parts)
    return [(part, text) for part, text in chosen if part["group"].nunique() > 1]


def choose_ratio(rows: pd.DataFrame) -> str:
    """The paper's ratio, or the replication's, as the URL says; of those that the rows have."""
    names = {"paper": "The paper's ratio", "replication": "The replication's ratio"}
    there = {name: text for name, text in names.items() if rows[f"{name}_change"].notna().any()}
    return address.segments("Ratio", "ratio", there or names)


def measured_effects(
    atlas: Atlas, *, relation: str = "all", templates: str | None = None
) -> tuple[pd.DataFrame, str]:
    """Rows of `evidence.effects`, of known facts or, where the model knows none, of all; and which.

    No rows where the own neurons were not measured.
    """
    for facts in ("known", "all"):
        rows = ask(evidence.effects, atlas, relation=relation, facts=facts, templates=templates)
        if (rows["group"] == "own").any():
            return rows, facts
    return rows.head(0), "known"


def on_held_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `evidence.effects` on held-out templates; all rows where the atlas holds none out."""
    held_out = rows[rows["templates"] == "held-out"]
    return rows if held_out.empty else held_out


def templates_asked(atlas: Atlas) -> str:
    """The templates on which effects are measured, in words."""
    held_out = ask(queries.atlas_summary, atlas).n_held_out
    return "held-out templates" if held_out else "the templates that found them (none is held out)"


def verdict(rows: pd.DataFrame, intervention: str, *, ratio: str = "paper") -> str:
    """What an intervention does and how much of it a control does, in markdown; "" if not measured.

    `rows`: as `evidence.effects`, of one kind of templates.
    """
    found = evidence.judged(rows, intervention, ratio=ratio)
    if found is None:
        return ""
    low, high = signed_percent(found.low), signed_percent(found.high)
    change = f"**{signed_percent(found.own)}**"
    if not math.isnan(found.low):
        change += f" (95 % interval {low} to {high})"
    if intervention == "suppress":
        subject, direction, it = "Suppressing a fact's neurons", "lower", "the probability of its answer"
    else:
        subject, direction, it = "Amplifying them", "raise", "it"
    if found.expected:
        return f"{subject} changes {it} by {change}. {_beside(found)}"
    chance = ", not distinguishable from no change" if found.none else ""
    return f"**{subject} does not {direction} {it}:** {change}{chance}. {_as_far(found)}".strip()


def _beside(found: Judged) -> str:
    """How much of the expected effect the strongest control has."""
    if found.control is None or signed_percent(found.beside) == signed_percent(0):
        return "No control changes it in that direction."
    control = f"{CONTROL_NAMES[found.control]}, {signed_percent(found.beside)}"
    if found.share >= _FARTHER:
        return f"**A control does more:** {control}."
    if found.share >= _NEARLY:
        return f"**A control does about as much:** {control}."
    if found.share >= _PARTLY:
        return f"A control does {found.share:.0%} of that: {control}."
    return f"No control comes near; the strongest: {control}."


def _as_far(found: Judged) -> str:
    """Beside an effect that is not the expected one: the control that changes as much, if one does."""
    if found.control is None or found.share < _NEARLY:
        return ""
    how = "as much" if found.share < _FARTHER else "more"
    return f"A control changes it {how}: {CONTROL_NAMES[found.control]}, {signed_percent(found.beside)}."


def whose(parts: pd.DataFrame) -> str:
    """Whose neurons they are, in markdown. parts: of one relation, as `evidence.specificity`."""
    by_part = parts.set_index("part")
    shares = {name: f"**{by_part.loc[name, 'value']:.0%}**" for name in by_part.index}
    ends = by_part.loc["own", ["low", "high"]]
    few = by_part["n_prompts"].min()
    return (
        f"Without its neurons, a fact of this relation loses {shares['fall']} of its answer's probability: "
        f"{shares['own']} ({ends['low']:.0%} to {ends['high']:.0%}) is its own loss, {shares['answer']} "
        f"comes with the answer, {shares['relation']} with the relation, and {shares['general']} any fact "
        f"loses." + (f" Only {plural(few, 'prompt')} of the group asked least." if few < 30 else "")
    )


def sample_size(rows: pd.DataFrame, facts: str) -> str:
    """How many facts and prompts stand behind the own neurons' numbers."""
    own = rows[rows["group"] == "own"]
    noun = {"known": "known fact", "unknown": "unknown fact", "all": "fact"}[facts]
    n_prompts = own.groupby("templates")["n_prompts"].max().sum()
    none_known = " (the model knows none of them)" if facts == "all" else ""
    return f"{plural(own['n_facts'].max(), noun)}{none_known}, {plural(n_prompts, 'prompt')}"


def why_absent(atlas: Atlas, table: str, what: str) -> str:
    """Why there is nothing to show of an experiment."""
    return f"{what}: {'not in the measured sample' if atlas.measured(table) else NOT_MEASURED}."


def note(text: str) -> None:
    """A caption of text that is not markdown."""
    st.caption(escape(text))
