"""What suppressing and amplifying do: own neurons beside their controls.

    layout.draw(effect_intervals(evidence.effects(a, templates="held-out")), "…")

Each function takes rows of `atlas.queries` and gives an `alt.Chart`; groups have the colours of `palette`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import FAINT, change_scale, label_axis, legend, percent_axis, tooltip
from atlas.charts.marks import bars, moves
from atlas.charts.palette import encoded
from atlas.numbers import signed_percent
from atlas.queries.evidence import TOP_GROUPS

# Which neurons were changed, or which facts were asked for while the own ones were.
GROUP_NAMES = {
    "own": "own neurons",
    "random": "random neurons",
    "matched": "activation-matched",
    "contribution_matched": "contribution-matched",
    "baseline": "most active",
    "same_relation_same_answer": "same relation, same answer",
    "same_answer": "same answer",
    "same_relation": "same relation",
    "unrelated": "unrelated facts",
    **{group: f"best {count}" for group, count in TOP_GROUPS.items()},
}
# Group → what it looks like, where that is not its own name.
MEANINGS = {
    "contribution_matched": "matched",
    "same_relation_same_answer": "answer",
    "same_answer": "answer",
    "same_relation": "relation",
    **dict.fromkeys(TOP_GROUPS, "own"),
}
# As a row's label where one intervention is drawn, and a heading above says which.
PLAIN_NAMES = {
    "own neurons": "its own neurons",
    "random neurons": "random neurons",
    "activation-matched": "similarly active ones",
    "contribution-matched": "equal contributors",
    "most active": "the most active ones",
    "same relation, same answer": "facts that share both",
    "same answer": "facts of its answer",
    "same relation": "facts of its relation",
    "unrelated facts": "unrelated facts",
    **{f"best {count}": f"its best {count}" for count in TOP_GROUPS.values()},
}
INTERVENTION_NAMES = {"suppress": "suppressed", "mean": "set to their mean", "amplify": "amplified"}
HEADINGS = {
    "suppress": "Suppressed (×0)",
    "mean": "Set to their mean over other facts",
    "amplify": "Amplified (×2)",
}
PARTS = {
    "own": ("own", "its own"),
    "answer": ("answer", "its answer's"),
    "relation": ("relation", "its relation's"),
    "general": ("unrelated", "any fact's"),
}
"""Part of a fall → its meaning, and its words."""


def _legend(rows: pd.DataFrame) -> dict[str, str]:
    """Meaning → the words of a group that has it, of the groups in the rows."""
    there = [group for group in reversed(GROUP_NAMES) if (rows["group"] == group).any()]
    return {MEANINGS.get(group, group): GROUP_NAMES[group] for group in reversed(there)}


def effect_name(intervention: str, group: str) -> str:
    """`suppressed, own neurons`."""
    return f"{INTERVENTION_NAMES.get(intervention, intervention)}, {GROUP_NAMES.get(group, group)}"


def effect_intervals(
    effects: pd.DataFrame,
    *,
    ratio: str = "paper",
    title: str = "Own neurons beside their controls",
) -> alt.LayerChart:
    """Change of the answer's probability with its 95 % interval, by intervention and group.

    effects: as `evidence.effects`. Where both kinds of templates are there, those that found the neurons
    are faint, below those that were held out.
    """
    change, low, high = (f"{ratio}_{end}" for end in ("change", "low", "high"))
    rows = effects[effects[change].notna()].copy()
    rows["look"] = rows["templates"].map({"held-out": 1.0, "discovery": FAINT})
    tips = tooltip(
        ("what:N", "Change"),
        ("templates:N", "Prompts"),
        (f"{change}:Q", "Change of the probability", "+.1%"),
        (f"{low}:Q", "95 % interval from", "+.1%"),
        (f"{high}:Q", "to", "+.1%"),
        ("mean_before:Q", "Mean probability before", ".3f"),
        ("mean_after:Q", "and after", ".3f"),
        ("top_changed:Q", "First answer became another", ".1%"),
        ("n_facts:Q", "Facts", ","),
        ("n_prompts:Q", "Prompts", ","),
    )
    return _changes(rows, change, (low, high), tips, title, "answer's probability")


def whose(parts: pd.DataFrame, *, title: str = "Whose neurons are they?") -> alt.LayerChart:
    """What of a fact's loss without its neurons others lose, too: a bar a relation or model, part by part.

    parts: as `evidence.specificity`, with `what`, the bar's name.
    """
    order = list(PARTS)
    rows = parts[parts["part"].isin(order)].copy()
    rows["meaning"] = rows["part"].map({part: meaning for part, (meaning, _) in PARTS.items()})
    rows["place"] = rows["part"].map(order.index)
    rows = rows.sort_values("place")
    # A negative part lies left of zero and takes nothing from the others.
    base = alt.Chart().encode(
        x=alt.X("value:Q", stack="zero", title="Of the answer's probability, lost (%)", axis=percent_axis()),
        y=alt.Y("what:N", title=None, sort=None, axis=label_axis()),
        order=alt.Order("place:Q"),
    )
    tips = tooltip(
        ("what:N", "Of"),
        ("part:N", "Part"),
        ("value:Q", "Lost", "+.1%"),
        ("low:Q", "95 % interval from", "+.1%"),
        ("high:Q", "to", "+.1%"),
        ("n_facts:Q", "Facts", ","),
        ("n_prompts:Q", "Prompts of the group asked least", ","),
    )
    names = dict(PARTS.values())
    bar = base.mark_bar().encode(**encoded(names, "color", legend=legend()), tooltip=tips)
    return alt.layer(bar, data=rows, title=title, height=30 * rows["what"].nunique())


def effect_bars(effects: pd.DataFrame, *, title: str = "What changing them does") -> alt.LayerChart:
    """Change of the mean probability, of atlases without intervals. effects: as `queries.effect_summary`."""
    tips = tooltip(
        ("what:N", "Change"),
        ("ratio_of_means:Q", "Change of the mean probability", "+.1%"),
        ("mean_relative_change:Q", "Mean of the changes", "+.1%"),
        ("mean_before:Q", "Mean probability before", ".3f"),
        ("mean_after:Q", "and after", ".3f"),
        ("n_prompts:Q", "Prompts", ","),
    )
    return _changes(effects.copy(), "ratio_of_means", None, tips, title, "mean probability")


def _changes(
    rows: pd.DataFrame,
    change: str,
    interval: tuple[str, str] | None,
    tips: list[alt.Tooltip],
    title: str,
    of_what: str,
) -> alt.LayerChart:
    rows["what"] = _names(rows)
    rows["meaning"] = rows["group"].replace(MEANINGS)
    rows["shown"] = rows[change].map(signed_percent)
    both = "templates" in rows and rows["templates"].nunique() > 1
    beside = alt.YOffset("templates:N", sort=["held-out", "discovery"]) if both else None
    reach = [*rows[change], *(end for name in interval or () for end in rows[name])]
    scale, axis = change_scale(reach)
    y = _by_intervention(rows)
    layers = bars(
        rows,
        change,
        names=_legend(rows),
        x={"title": f"Change of the {of_what} (%)", "axis": axis, "scale": scale},
        tooltip=tips,
        interval=interval,
        beside=beside,
        y=y,
    )
    height = max(1, len(y["scale"].domain)) * (32 if both else 27)
    return alt.layer(*layers, data=rows, title=title, height=height)


def effect_moves(effects: pd.DataFrame, *, title: str) -> alt.LayerChart:
    """The answer's mean probability before and after, own neurons beside the controls.

    effects: as `queries.effects_of_fact`; means are over its prompts. Where no probabilities are known, bars
    show the mean relative change.
    """
    if effects["p_before"].isna().all():
        return _mean_changes(effects, title)
    groups = effects.groupby(["intervention", "group"])
    means = groups[["p_before", "p_after"]].mean()
    means = means.set_axis(["before", "after"], axis="columns").assign(n=groups.size()).reset_index()
    means["change"] = means["after"] / means["before"] - 1
    means = means.assign(what=_names(means), meaning=means["group"].replace(MEANINGS))
    y = _by_intervention(means)
    layers = moves(
        "before",
        "after",
        names=_legend(means),
        y=alt.Y("what:N", title=None, **y),
        tooltip=tooltip(
            ("what:N", "Change"),
            ("before:Q", "Mean probability before", ".4f"),
            ("after:Q", "and after", ".4f"),
            ("change:Q", "Change", "+.1%"),
            ("n:Q", "Prompts"),
        ),
    )
    return alt.layer(*layers, data=means, title=title, height=27 * max(1, len(y["scale"].domain)))


def _mean_changes(effects: pd.DataFrame, title: str) -> alt.LayerChart:
    groups = effects.groupby(["intervention", "group"])["relative_change"]
    means = groups.agg(change="mean", n="size").reset_index()
    tips = tooltip(("what:N", "Change"), ("change:Q", "Mean of the changes", "+.1%"), ("n:Q", "Prompts"))
    return _changes(means, "change", None, tips, title, "answer's probability")


def _names(rows: pd.DataFrame) -> Sequence[str]:
    return [effect_name(*pair) for pair in zip(rows["intervention"], rows["group"], strict=True)]


def _by_intervention(rows: pd.DataFrame) -> dict[str, Any]:
    """An axis of groups below their intervention; a single one has plain names and needs no heading."""
    present = [each for each in INTERVENTION_NAMES if (rows["intervention"] == each).any()]
    order = []
    for intervention in present:
        groups = set(rows.loc[rows["intervention"] == intervention, "group"])
        order += [HEADINGS[intervention]] if len(present) > 1 else []
        order += [effect_name(intervention, group) for group in GROUP_NAMES if group in groups]
    comma = "indexof(datum.label, ', ')"
    group = f"slice(datum.label, {comma} + 2)"
    if len(present) == 1:
        group = f"{json.dumps(PLAIN_NAMES)}[{group}]"
    axis = label_axis(
        140,
        labelExpr=f"{comma} < 0 ? datum.label : {group}",
        labelFontWeight=alt.condition(f"{comma} < 0", alt.value("bold"), alt.value("normal")),
        ticks=False,
    )
    return {"scale": alt.Scale(domain=order), "axis": axis}
