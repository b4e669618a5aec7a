"""What experiments found of one fact: subsets of its neurons, other templates, activations, edits.

    tables |= show_fact_experiments(atlas, fact)      # one experiment at a time, as `?evidence=` says

Experiments take a sample of the facts; a fact outside it has no such section.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import CheckboxColumn, TextColumn

from app.fact import tables
from app.shared import address, layout
from app.shared import evidence as sentences
from app.shared.exports import Later
from app.shared.resources import ask
from app.shared.words import escape, formatted, is_missing, plural, with_blank
from atlas.charts import changes as change_charts
from atlas.charts import checks as check_charts
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.queries.subsets import half_effect
from atlas.store.atlas import Atlas

_PROMPT_KINDS = {
    "edited": "the edited prompt",
    "paraphrase": "a paraphrase",
    "symmetry": "the inverse relation",
    "same_object": "a fact with the same answer",
    "same_relation": "the same relation",
    "other_relation": "another relation",
}
_EDIT_GROUPS = change_charts.EDIT_GROUP_NAMES | {"random_all": "as many random neurons as all"}


def show_fact_experiments(atlas: Atlas, fact: Mapping[str, Any]) -> dict[str, Later]:
    """The experiments that include this fact, one in view; returns the tables of all of them."""
    fact_id = fact["fact_id"]
    counts = evidence.counts(atlas, fact_id)
    views = {name: title for name, (title, _, _) in _EXPERIMENTS.items() if counts[name]}
    if not views:
        return {}
    st.subheader("What experiments found", anchor=False)
    view = address.segments("Experiment", "evidence", views)
    with layout.errors_as_sentences():
        _EXPERIMENTS[view][1](atlas, fact_id)
    return {name: Later(counts[name], partial(_EXPERIMENTS[name][2], atlas, fact_id)) for name in views}


def _draw_beside(chart: Any, alternative: str, text: str, note: str) -> None:
    """A chart, and beside it what it shows in words."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layout.draw_chart(chart, alternative)
    with right:
        st.markdown(text)
        sentences.note(note)


# Fewer neurons ---------------------------------------------------------------------------------------


def show_subsets(atlas: Atlas, fact_id: str) -> None:
    halves = ask(half_effect, atlas)
    _draw_beside(
        partial(check_charts.subset_lines, evidence.subset_curve(atlas, fact_id)),
        "Probability of the answer with some of its neurons suppressed",
        describe_subsets(halves[halves["fact_id"] == fact_id]),
        "On held-out prompts. Neurons are suppressed one after the other, by mean score from the largest "
        "down, and in a random order.",
    )


def describe_subsets(halves: pd.DataFrame) -> str:
    """How many neurons have half the effect of all. `halves`: as `half_effect`, of one fact."""
    rows = halves.set_index("order")
    fall = signed_percent(-float(rows["fall_all"].iloc[0]))
    effect = (
        f"Suppressing all {plural(rows['n_neurons'].iloc[0], 'neuron')} changes the answer's probability by "
        f"**{fall}**"
    )
    orders = {"score": "by largest score", "random": "in a random order"}
    parts = [
        f"**{int(rows.loc[order, 'k_half'])}** {how}"
        for order, how in orders.items()
        if order in rows.index and not is_missing(rows.loc[order, "k_half"])
    ]
    half = f". Half of that takes {', '.join(parts)}." if parts else ": no effect to halve."
    return effect + half


# Other templates -------------------------------------------------------------------------------------


def show_stability(atlas: Atlas, fact_id: str) -> None:
    found = evidence.stability_of_fact(atlas, fact_id)
    _draw_beside(
        partial(check_charts.stability_bars, check_charts.jaccard_rows(found)),
        "Neurons in common with those found on other templates",
        describe_stability(found),
        "The neurons found by the same rule on the held-out templates, compared with the fact's own, with "
        "those of another fact of its relation, and with those of a fact that differs in relation and "
        "answer. Neurons that belong to every fact are in all of these.",
    )


def describe_stability(found: Mapping[str, Any]) -> str:
    """How many neurons both halves of the templates find, and what suppressing each half's neurons does."""
    shared, before, own = found["shared"], found["p_before"], found["p_discovery"]
    text = (
        f"The held-out templates find **{shared} of {plural(found['n_discovery'], 'neuron')}** again, and "
        f"{found['n_held_out'] - shared} others. "
    )
    if own < before:
        text += (
            f"On the discovery prompts, suppressing the fact's neurons lowers the answer's probability from "
            f"{before:.2f} to **{own:.2f}**, suppressing those of the held-out templates to "
            f"**{found['p_held_out']:.2f}**."
        )
    else:
        text += f"Suppressing the fact's neurons does not lower its answer: {before:.2f}, then {own:.2f}."
    chance = found["jaccard_relation"]
    if found["jaccard"] is not None and chance is not None and chance >= found["jaccard"]:
        text += " **Another fact of the relation shares as many of them.**"
    return text


# Activations -----------------------------------------------------------------------------------------


def show_contexts(atlas: Atlas, fact_id: str) -> None:
    rows = evidence.contexts_of_fact(atlas, fact_id)
    _draw_beside(
        partial(check_charts.context_bars, rows),
        "Activation of its neurons on its own prompts and elsewhere",
        describe_contexts(rows),
        "1: as active as on the discovery prompts. Measured on held-out prompts of the fact, sentences that "
        "mention only its subject, prompts of its relation about other subjects, and unrelated prompts. "
        "The control is as many random neurons of the same layers.",
    )


def describe_contexts(rows: pd.DataFrame) -> str:
    """The activation of its own neurons by context, and of random neurons on the fact's prompts."""
    level = rows.dropna(subset=["relative"]).set_index(["group", "context"])["relative"]
    if ("own", "fact") not in level.index:
        return ""
    parts = [
        f"**{_level(level['own', context])}** where {name}"
        for context, name in check_charts.CONTEXT_NAMES.items()
        if ("own", context) in level.index
    ]
    text = [f"The activation of its neurons is {', '.join(parts)}."]
    elsewhere = level["own"].drop("fact")
    if len(elsewhere) and elsewhere.max() >= level["own", "fact"]:
        text.append("**They are no more active on the fact's own prompts.**")
    if ("random", "fact") in level.index:
        text.append(f"As many random neurons are at {_level(level['random', 'fact'])} there.")
    return " ".join(text)


def _level(relative: float) -> str:
    return f"{relative:.2f}".replace("-", "−")


# Edits -----------------------------------------------------------------------------------------------


def show_fact_edits(atlas: Atlas, fact_id: str) -> None:
    rows = evidence.edits_of_fact(atlas, fact_id)
    edits = rows.groupby(["new_object", "remove", "add"], sort=False)
    st.markdown("\n".join(f"- {describe_edit(str(answer), part)}" for (answer, _, _), part in edits))
    edit_table(rows)


def describe_edit(answer: str, part: pd.DataFrame) -> str:
    """Whether one edit succeeded, beside random neurons. `part`: its rows of `evidence.edits_of_fact`."""
    first = part.iloc[0]
    text = f"Edited to **{escape(answer)}** (λ₁ = {first['remove']:g}, λ₂ = {first['add']:g})"
    own = part[part["kind"] == "edited"].set_index("group").to_dict("index")
    moves = [
        f"{name} {row['p_new_before']:.2f} → **{row['p_new_after']:.2f}**, "
        f"rank {formatted(row['rank_new_after'])}"
        for group, name in (("own", "its probability"), ("random", "with random neurons"))
        if (row := own.get(group))
    ]
    return ": ".join(filter(None, [text, "; ".join(moves)])) + "."


def edit_table(rows: pd.DataFrame) -> None:
    """Every prompt that the edits were evaluated on."""

    def moves(what: str) -> list[str | None]:
        pairs = zip(rows[f"{what}_before"], rows[f"{what}_after"], strict=True)
        return [None if is_missing(a) or is_missing(b) else f"{a:.3f} → {b:.3f}" for a, b in pairs]

    strengths = zip(rows["remove"], rows["add"], strict=True)
    st.dataframe(
        pd.DataFrame(
            {
                "prompt": rows["text"].map(with_blank),
                "kind": [_PROMPT_KINDS.get(kind, kind) for kind in rows["kind"]],
                "neurons": [_EDIT_GROUPS.get(group, group) for group in rows["group"]],
                "strength": [f"{remove:g}, {add:g}" for remove, add in strengths],
                "old": moves("p_old"),
                "new": moves("p_new"),
                "changed": rows["top_changed"],
            }
        ),
        hide_index=True,
        alt="Prompts that the edits were evaluated on, with the probabilities before and after",
        column_config={
            "prompt": tables.PROMPT,
            "kind": TextColumn("Kind of prompt", width=125),
            "neurons": TextColumn("Neurons edited", width=175),
            "strength": TextColumn("λ₁, λ₂", width=60),
            "old": TextColumn("P(own answer)", width=115),
            "new": TextColumn("P(new answer)", width=115),
            "changed": CheckboxColumn("First answer changed", width=140),
        },
    )


def _stability_table(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    return pd.DataFrame([evidence.stability_of_fact(atlas, fact_id)])


# Table → its title, what draws it, what exports it.
_EXPERIMENTS = {
    "subsets": ("Fewer neurons", show_subsets, evidence.subset_curve),
    "stability": ("Other templates", show_stability, _stability_table),
    "contexts": ("Activations", show_contexts, evidence.contexts_of_fact),
    "edits": ("Edits", show_fact_edits, evidence.edits_of_fact),
}
