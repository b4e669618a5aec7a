"""What experiments found of one fact: fewer neurons, other wordings, what activates them, edits.

    tables |= fact_evidence.show(atlas, fact)      # one experiment at a time, as `?evidence=` says

Experiments take a sample of the facts; a fact that none took has no such section.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.fact import tables
from app.shared import evidence as evidence_show
from app.shared import layout
from app.shared.exports import Later
from app.shared.resources import ask
from app.shared.words import escape, formatted, is_missing, plural
from atlas.charts import evidence as evidence_charts
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.queries.subsets import half_effect
from atlas.store.atlas import Atlas

VIEWS = {
    "subsets": "Fewer neurons",
    "stability": "Other wordings",
    "contexts": "What activates them",
    "edits": "Edits of it",
}
KINDS = {
    "edited": "the edited prompt",
    "paraphrase": "a paraphrase",
    "symmetry": "the inverse relation",
    "same_object": "a fact with the same answer",
    "same_relation": "the same relation",
    "other_relation": "another relation",
}
EDITORS = evidence_charts.EDITORS | {"random_all": "as many random as all"}


def show(atlas: Atlas, fact: Mapping[str, Any]) -> dict[str, pd.DataFrame | Later]:
    """The experiments that took this fact, one in view; gives the tables of all of them."""
    fact_id = fact["fact_id"]
    counts = evidence.counts(atlas, fact_id)
    views = {name: title for name, title in VIEWS.items() if counts[name]}
    if not views:
        return {}
    st.subheader("What experiments found", anchor=False)
    view = evidence_show.chosen_view("Experiment", "evidence", views)
    with layout.errors_as_sentences():
        _DRAWN[view](atlas, fact_id)
    return {name: Later(counts[name], partial(_TABLES[name], atlas, fact_id)) for name in views}


# Fewer neurons ---------------------------------------------------------------------------------------


def fewer(atlas: Atlas, fact_id: str) -> None:
    curve = evidence.subset_curve(atlas, fact_id)
    halves = ask(half_effect, atlas)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layout.draw_chart(
            evidence_charts.subset_lines(curve),
            "Probability of the answer with some of its neurons suppressed",
        )
    with right:
        st.markdown(how_few(halves[halves["fact_id"] == fact_id]))
        evidence_show.note(
            "On prompts whose wording was held out. The neurons one after the other, those of the largest "
            "mean score first, and the same ones in a random order."
        )


def how_few(halves: pd.DataFrame) -> str:
    """How many neurons give half of what all give. `halves`: as `subsets.half_effect`, of one fact."""
    rows = halves.set_index("order")
    n = int(rows["n_neurons"].iloc[0])
    fall = float(rows["fall_all"].iloc[0])
    if rows["k_half"].isna().all():
        return (
            f"Suppressing all {plural(n, 'neuron')} changes the answer's probability by "
            f"**{signed_percent(-fall)}**: there is no effect to be halved."
        )
    said = [
        f"**{int(rows.loc[order, 'k_half'])}** {how}"
        for order, how in (("score", "with the largest score first"), ("random", "in a random order"))
        if order in rows.index and not is_missing(rows.loc[order, "k_half"])
    ]
    return (
        f"Suppressing all {plural(n, 'neuron')} changes the answer's probability by "
        f"**{signed_percent(-fall)}**. Half of that takes {', '.join(said)}."
    )


# Other wordings --------------------------------------------------------------------------------------


def other_wordings(atlas: Atlas, fact_id: str) -> None:
    found = evidence.stability_of_fact(atlas, fact_id)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layout.draw_chart(
            evidence_charts.stability_bars(found), "Neurons in common with those that other wordings find"
        )
    with right:
        st.markdown(how_stable(found))
        evidence_show.note(
            "Neurons are found again, by the same rule, on the wordings that were held out. They are "
            "compared with the fact's own, with those of another fact of its relation, and of a fact that "
            "differs in relation and answer: neurons that everybody has are in all of them."
        )


def how_stable(found: Mapping[str, Any]) -> str:
    """How many neurons both halves of the templates find, and what each half's do."""
    of = f"**{found['shared']} of {plural(found['n_discovery'], 'neuron')}**"
    said = f"Other wordings of the fact find {of} again, and {found['n_held_out'] - found['shared']} others."
    before, own, other = found["p_before"], found["p_discovery"], found["p_held_out"]
    said += (
        f" On the wordings that found the fact's neurons, suppressing these lowers the answer's probability "
        f"from {before:.2f} to **{own:.2f}**, those of the other wordings to **{other:.2f}**."
        if own < before
        else f" Suppressing the fact's neurons does not lower its answer: {before:.2f}, then {own:.2f}."
    )
    chance = found["jaccard_relation"]
    if found["jaccard"] is not None and chance is not None and chance >= found["jaccard"]:
        said += " **Another fact of the relation has as many of them.**"
    return said


# What activates them ---------------------------------------------------------------------------------


def activating(atlas: Atlas, fact_id: str) -> None:
    rows = evidence.contexts_of_fact(atlas, fact_id)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layout.draw_chart(
            evidence_charts.context_bars(rows),
            "How active its neurons are where it is asked for, and elsewhere",
        )
    with right:
        st.markdown(what_activates(rows))
        evidence_show.note(
            "1: as active as on the prompts that found the neurons. Asked are held-out prompts of the fact, "
            "sentences that mention only its subject, prompts of its relation about others, and prompts that "
            "share nothing with it. Beside them as many random neurons of the same layers."
        )


def what_activates(rows: pd.DataFrame) -> str:
    """How active its own neurons are where, and random ones where the fact is asked for."""
    level = rows.dropna(subset=["relative"]).set_index(["group", "context"])["relative"]
    if ("own", "fact") not in level.index:
        return ""
    said = [
        f"**{_level(level['own', context])}** where {name}"
        for context, name in evidence_charts.CONTEXTS.items()
        if ("own", context) in level.index
    ]
    sentences = [f"Its neurons are at {', '.join(said)}."]
    elsewhere = level["own"].drop("fact")
    if len(elsewhere) and elsewhere.max() >= level["own", "fact"]:
        sentences.append("**They are no more active where the fact is asked for.**")
    if ("random", "fact") in level.index:
        sentences.append(f"As many random ones are at {_level(level['random', 'fact'])} where it is.")
    return " ".join(sentences)


def _level(relative: float) -> str:
    return f"{relative:.2f}".replace("-", "−")


# Edits of it -----------------------------------------------------------------------------------------


def edited(atlas: Atlas, fact_id: str) -> None:
    rows = evidence.edits_of_fact(atlas, fact_id)
    said = [
        f"- {what_it_did(str(answer), part)}"
        for (answer, _, _), part in rows.groupby(["new_object", "remove", "add"], sort=False)
    ]
    st.markdown("\n".join(said))
    edit_table(rows)


def what_it_did(answer: str, part: pd.DataFrame) -> str:
    """Whether one edit took, beside random neurons. `part`: its rows of `evidence.edits_of_fact`."""
    first = part.iloc[0]
    said = f"Rewritten to **{escape(answer)}** (λ₁ = {first['remove']:g}, λ₂ = {first['add']:g})"
    judged = part[part["kind"] == "edited"].set_index("group")
    moves = [
        f"{name} {judged.loc[group, 'p_new_before']:.2f} → **{judged.loc[group, 'p_new_after']:.2f}**, "
        f"rank {formatted(judged.loc[group, 'rank_new_after'])}"
        for group, name in (("own", "its probability goes"), ("random", "with random neurons"))
        if group in judged.index
    ]
    return ": ".join(filter(None, [said, "; ".join(moves)])) + "."


def edit_table(rows: pd.DataFrame) -> None:
    """Every prompt that was asked about the edits."""

    def moves(what: str) -> list[str | None]:
        pairs = zip(rows[f"{what}_before"], rows[f"{what}_after"], strict=True)
        return [None if is_missing(a) or is_missing(b) else f"{a:.3f} → {b:.3f}" for a, b in pairs]

    strengths = zip(rows["remove"], rows["add"], strict=True)
    st.dataframe(
        pd.DataFrame(
            {
                "asked": [KINDS.get(kind, kind) for kind in rows["kind"]],
                "neurons": [EDITORS.get(group, group) for group in rows["group"]],
                "strength": [f"{remove:g}, {add:g}" for remove, add in strengths],
                "old": moves("p_old"),
                "new": moves("p_new"),
                "changed": rows["top_changed"],
                "prompt": rows["text"].str.replace("[Y]", tables.BLANK, regex=False),
            }
        ),
        hide_index=True,
        alt="Prompts asked about the edits, with the probabilities before and after",
        column_config={
            "asked": st.column_config.TextColumn("Asked", width=125),
            "neurons": st.column_config.TextColumn("Neurons edited", width=175),
            "strength": st.column_config.TextColumn("λ₁, λ₂", width=60),
            "old": st.column_config.TextColumn("P(own answer)", width=115),
            "new": st.column_config.TextColumn("P(new answer)", width=115),
            "changed": st.column_config.CheckboxColumn("First answer changed", width=140),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
        },
    )


_DRAWN = {"subsets": fewer, "stability": other_wordings, "contexts": activating, "edits": edited}


def _stability_table(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    return pd.DataFrame([evidence.stability_of_fact(atlas, fact_id)])


_TABLES = {
    "subsets": evidence.subset_curve,
    "stability": _stability_table,
    "contexts": evidence.contexts_of_fact,
    "edits": evidence.edits_of_fact,
}
