"""What the kinds of comparison have in common: the table of measures, the overlap, the table of neurons.

    measures = measured({"Facts": ["3", "5"]})                  # a row a measure: its values of A and B
    show(measures, "France", "Italy")
    neurons_in_common(atlas, comparison.neurons_of_facts(atlas, a, b), measure="score", title="Mean score")

A is blue and B orange in every picture, what both have is green.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.compare import charts
from app.shared import layout, links, tray
from app.shared.words import NOT_MEASURED, escape, formatted, is_missing, percentage, plural, token_list
from atlas.neuron import Neuron
from atlas.queries import comparison
from atlas.store.atlas import Atlas

POINTS_DRAWN = 2000
LINKED = 12

EFFECTS = {
    "own": "Suppress its neurons",
    "unrelated": "… and ask unrelated facts",
    "random": "Suppress random neurons",
    "matched": "Suppress those nearest in activity",
    "baseline": "Suppress the most active ones",
}


def measured(rows: Mapping[str, list[str]]) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    return pd.DataFrame([(name, *values) for name, values in rows.items()], columns=["measure", "a", "b"])


def effect_measures(effects: list[dict[str, float]], absent: list[str]) -> dict[str, list[str]]:
    """What suppressing did on held-out prompts, beside its controls; nothing where neither was measured.

    `absent` says of each side why it has none.
    """
    return {
        name: [
            formatted(side[group], "+.0%") if group in side else why
            for side, why in zip(effects, absent, strict=True)
        ]
        for group, name in EFFECTS.items()
        if any(group in side for side in effects)
    }


def why_no_effects(fact: Mapping[str, Any]) -> str:
    return "it has no neurons" if fact["n_neurons"] == 0 else NOT_MEASURED


def yes_or_no(known: Any) -> str:
    return NOT_MEASURED if is_missing(known) else "yes" if known else "no"


def show(measures: pd.DataFrame, a: str, b: str) -> None:
    """The measures of A and B as a table that keeps its columns on a phone."""
    shown = pd.DataFrame(
        {
            f"A · {escape(a)}": measures["a"].map(escape),
            f"B · {escape(b)}": measures["b"].map(escape),
        }
    )
    shown.index = pd.Index(measures["measure"].map(escape), name="")
    st.table(shown, border="horizontal", alt=f"Measures of {a} and {b} side by side")
    if EFFECTS["own"] in set(measures["measure"]):
        st.caption(
            "Suppress: by how much the answer's mean probability changes, on prompts whose wording was kept "
            "out of the search for neurons. Random neurons are as many of the same layers; those nearest "
            "in activity are of these layers, too; the most active ones are of any."
        )


def neurons_in_common(
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

    `size`: layers and neurons a layer of the model, where it is not the atlas's; `linked`: whether these
    neurons have pages of their own in the atlas.
    """
    st.subheader("Neurons in common", anchor=False)
    if rows.empty:
        layout.nothing("Neither has knowledge neurons that count here.")
        return
    n_layers, size = size or (atlas.manifest.model.n_layers, atlas.manifest.model.n_neurons)
    shared = comparison.overlap(rows, size=size, by="layer")
    say_overlap(shared, "neuron", "as many drawn at random from the same layers", beside)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        layout.draw_chart(charts.overlap_bars(shared, "neurons"), "Neurons of A only, of both, of B only")
        expected = comparison.chance_by_layer(rows, size) if size else None
        layout.draw_chart(charts.layer_bars(rows, expected, n_layers=n_layers), "The same by layer")
    with right:
        if rows[[f"{measure}_a", f"{measure}_b"]].isna().all(axis=None):
            layout.nothing(f"{title}: {NOT_MEASURED}.")
        else:
            draw_points(rows, measure=measure, title=title, percent=percent)
    both = rows[rows["where"] == "both"]
    if len(both) and linked:
        tray.add_button(
            [Neuron(int(row.layer), int(row.neuron)) for row in both.itertuples()],
            label=f"Add {plural(len(both), 'shared neuron')} to the tray",
            key="compare-both",
            source="shared by two in Compare",
        )
    table(rows, measure=measure, title=title, percent=percent, linked=linked)


def say_overlap(shared: comparison.Overlap, noun: str, chance: str, beside: str = "") -> None:
    """The overlap in a sentence, and what chance would give."""
    says = (
        f"**{shared.both:,} of {plural(shared.either, noun)} in both** "
        f"(Jaccard {percentage(shared.jaccard, 1)}); "
        f"{shared.only_a:,} in A only, {shared.only_b:,} in B only."
    )
    if shared.chance is not None:
        spread = f" ± {shared.spread:.1f}" if shared.spread else ""
        says += (
            f" By chance, {chance} would have {shared.chance:.1f}{spread} in common "
            f"(Jaccard {percentage(shared.chance_jaccard, 1)})."
        )
    st.markdown(says + beside)


def draw_points(rows: pd.DataFrame, *, measure: str, title: str, percent: bool) -> None:
    drawn = rows.head(POINTS_DRAWN)
    layout.draw_chart(
        charts.neuron_points(drawn, measure=measure, title=title, percent=percent),
        f"{title} of each neuron in A and in B",
    )
    if len(drawn) < len(rows):
        st.caption(f"The first {len(drawn):,} of {len(rows):,} neurons are drawn.")


def with_tokens(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows for an export: neurons by name, promoted tokens as text."""
    names = [str(Neuron(int(row.layer), int(row.neuron))) for row in rows.itertuples()]
    tokens = [token_list(pairs, missing="") for pairs in rows["promoted"]]
    return rows.drop(columns="promoted").assign(name=names, promoted=tokens)


def table(rows: pd.DataFrame, *, measure: str, title: str, percent: bool, linked: bool) -> None:
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
                "name": st.column_config.TextColumn("Neuron", pinned=True),
                "where": "In",
                f"{measure}_a": st.column_config.NumberColumn(f"{title} in A", format=form),
                f"{measure}_b": st.column_config.NumberColumn(f"{title} in B", format=form),
                "n_relations": st.column_config.NumberColumn("Relations", help="that have it in this atlas"),
                "promoted": st.column_config.TextColumn("Promotes", width="large"),
            },
        )
        both = rows[rows["where"] == "both"].head(LINKED)
        if len(both) and linked:
            links.neuron_links(both)
