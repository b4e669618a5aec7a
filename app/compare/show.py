"""What the kinds of comparison have in common: the table of measures, the overlap, the table of neurons.

    measures = measure_rows({"Facts": ["3", "5"]})              # a row a measure: its values of A and B
    show_measures(measures, "France", "Italy")
    show_overlap_of_neurons(atlas, comparison.neurons_of_facts(atlas, a, b), measure="score", title="Score")

A, B and what both have keep one colour each in every picture (`atlas.charts.palette`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from app.compare import charts
from app.shared import layout, links, tray
from app.shared.words import (
    NOT_MEASURED,
    escape,
    is_missing,
    neurons_of,
    percentage,
    plural,
    token_list,
)
from atlas.numbers import signed_percent
from atlas.queries import comparison
from atlas.store.atlas import Atlas

POINTS_DRAWN = 2000
LINKED = 12

EFFECTS = {
    "own": "Suppress its neurons",
    "unrelated": "… on unrelated facts",
    "random": "Suppress random neurons",
    "matched": "Suppress activation-matched neurons",
    "baseline": "Suppress the most active neurons",
}


def measure_rows(rows: Mapping[str, list[str]]) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    return pd.DataFrame([(name, *values) for name, values in rows.items()], columns=["measure", "a", "b"])


def effect_measures(effects: list[dict[str, float]], absent: list[str]) -> dict[str, list[str]]:
    """What suppressing does on held-out prompts, beside its controls; empty where neither was measured.

    `absent` says for each side why it has none.
    """
    return {
        name: [
            signed_percent(side[group]) if group in side else why
            for side, why in zip(effects, absent, strict=True)
        ]
        for group, name in EFFECTS.items()
        if any(group in side for side in effects)
    }


def why_no_effects(fact: Mapping[str, Any]) -> str:
    return "it has no neurons" if fact["n_neurons"] == 0 else NOT_MEASURED


def yes_or_no(known: Any) -> str:
    return NOT_MEASURED if is_missing(known) else "yes" if known else "no"


def show_measures(measures: pd.DataFrame, a: str, b: str) -> None:
    """The measures of A and B as a table that also fits a phone."""
    shown = pd.DataFrame(
        {
            f"A · {escape(a)}": measures["a"].map(escape),
            f"B · {escape(b)}": measures["b"].map(escape),
        }
    )
    shown.index = pd.Index(measures["measure"].map(escape), name="")
    with st.container(key="compare-effects" if EFFECTS["own"] in set(measures["measure"]) else None):
        st.table(shown, border="horizontal", alt=f"Measures of {a} and {b} side by side")
    if EFFECTS["own"] in set(measures["measure"]):
        st.caption(
            "Suppress: relative change of the answer's mean probability on held-out prompts, or on all where "
            "an atlas holds none out. As many random and activation-matched neurons of the same layers; the "
            "most active neurons (the paper's baseline) of any layer."
        )


def show_overlap_of_neurons(
    atlas: Atlas,
    rows: pd.DataFrame,
    *,
    measure: str,
    title: str,
    percent: bool = False,
    beside: str = "",
    size: tuple[int, int] | None = None,
    linked: bool = True,
) -> None:
    """The neurons of A, of B and of both, beside chance.

    `size`: layers and neurons per layer, where the model is not the atlas's; `linked`: whether the neurons
    have pages in the atlas.
    """
    st.subheader("Neurons in common", anchor=False)
    if rows.empty:
        layout.nothing("Neither A nor B has knowledge neurons here.")
        return
    n_layers, size = size or (atlas.manifest.model.n_layers, atlas.manifest.model.n_neurons)
    shared = comparison.overlap(rows, size=size, by="layer")
    describe_overlap(shared, "neuron", "as many drawn at random from the same layers", beside)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        layout.draw_chart(
            partial(charts.overlap_bars, shared, "neurons"), "Neurons of A only, of both, of B only"
        )
        expected = comparison.chance_by_layer(rows, size) if size else None
        layout.draw_chart(
            partial(charts.shared_by_layer, rows, expected, n_layers=n_layers), "The same by layer"
        )
    with right:
        if rows[[f"{measure}_a", f"{measure}_b"]].isna().all(axis=None):
            layout.nothing(f"{title}: {NOT_MEASURED}.")
        else:
            draw_points(rows, measure=measure, title=title, percent=percent)
    both = rows[rows["where"] == "both"]
    if len(both) and linked:
        tray.add_button(
            neurons_of(both),
            label=f"Add {plural(len(both), 'shared neuron')} to the tray",
            key="compare-both",
            source="shared by two in Compare",
        )
    comparison_table(rows, measure=measure, title=title, percent=percent, linked=linked)


def describe_overlap(shared: comparison.Overlap, noun: str, chance: str, beside: str = "") -> None:
    """The overlap in a sentence, beside what chance would give."""
    text = (
        f"**{shared.both:,} of {plural(shared.either, noun)} in both** "
        f"(Jaccard {percentage(shared.jaccard, 1)}); "
        f"{shared.only_a:,} in A only, {shared.only_b:,} in B only."
    )
    if shared.chance is not None:
        spread = f" ± {shared.spread:.1f}" if shared.spread else ""
        text += (
            f" By chance, {chance} would have {shared.chance:.1f}{spread} in common "
            f"(Jaccard {percentage(shared.chance_jaccard, 1)})."
        )
    st.markdown(text + beside)


def draw_points(rows: pd.DataFrame, *, measure: str, title: str, percent: bool) -> None:
    drawn = rows.head(POINTS_DRAWN)
    layout.draw_chart(
        partial(charts.neuron_points, drawn, measure=measure, title=title, percent=percent),
        f"{title} of each neuron in A and in B",
    )
    if len(drawn) < len(rows):
        st.caption(f"The first {len(drawn):,} of {len(rows):,} neurons are drawn.")


def with_tokens(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows for an export: neurons by name, promoted tokens as text."""
    tokens = [token_list(pairs, missing="") for pairs in rows["promoted"]]
    return rows.drop(columns="promoted").assign(
        name=[str(each) for each in neurons_of(rows)], promoted=tokens
    )


def comparison_table(rows: pd.DataFrame, *, measure: str, title: str, percent: bool, linked: bool) -> None:
    form = "percent" if percent else "%.4f"
    shown = with_tokens(rows)
    shown["where"] = shown["where"].map(charts.PLACES)
    columns = ["name", "where", f"{measure}_a", f"{measure}_b", "n_relations", "promoted"]
    with st.expander(f"All {plural(len(rows), 'neuron')} as a table"):
        st.dataframe(
            shown[[column for column in columns if column in shown]],
            hide_index=True,
            alt="Neurons of A, of B, of both",
            column_config={
                "name": TextColumn("Neuron", pinned=True),
                "where": "In",
                f"{measure}_a": NumberColumn(f"{title} in A", format=form),
                f"{measure}_b": NumberColumn(f"{title} in B", format=form),
                "n_relations": NumberColumn("Relations", help="that have it in this atlas"),
                "promoted": TextColumn("Promotes", width="large"),
            },
        )
        both = rows[rows["where"] == "both"].head(LINKED)
        if len(both) and linked:
            links.neuron_links(both)
