"""One fact in two atlases: what each model says, how many neurons it has there, and how deep they lie.

    two_atlases(atlas)          # `?a=` names the fact, `?other=` the atlas beside the one in view

The neurons of two models cannot be matched; the page says so, and compares what can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, ProgressColumn, TextColumn

from app.compare import charts, show
from app.compare.choose import pick_fact, swap_link
from app.shared import address, exports, layout, links, resources
from app.shared.resources import ask
from app.shared.titles import name_of
from app.shared.words import (
    NOT_MEASURED,
    escape,
    fact_label,
    formatted,
    is_missing,
    plural,
    shown_token,
    with_blank,
)
from atlas import queries
from atlas.errors import QueryError
from atlas.queries import comparison
from atlas.store.atlas import Atlas


def two_atlases(atlas: Atlas) -> None:
    choices = resources.atlases()
    here = st.session_state.get("atlas_id")
    others = {atlas_id: atlas_id for atlas_id in choices if atlas_id != here}
    if not others:
        layout.nothing("There is only one atlas here. Build another with `python -m build run`.")
        return
    left, right = st.columns(2, gap="medium")
    with left:
        fact = pick_fact(atlas, "a", "the fact")
    with right:
        chosen = address.choice("Atlas B", "other", others, placeholder="Choose the other atlas")
        st.caption(f"A is {escape(here or atlas.atlas_id)}, the atlas in view.")
    other_id = address.id_in_url("other")
    if other_id and other_id not in others:
        raise QueryError(f"There is no other atlas '{other_id}' here. Choose one of: {', '.join(others)}.")
    if fact is None or not chosen:
        suggest_facts(atlas, next(iter(others)))
        return
    other = resources.opened(choices[chosen])
    twin_id = comparison.same_fact(atlas, other, fact["fact_id"])
    if twin_id is None:
        layout.nothing(f"{escape(chosen)} lacks the fact {escape(fact_label(fact))}. Choose another fact.")
        return
    twin = queries.fact(other, twin_id)
    with left:
        links.fact_link(fact["fact_id"], f"{fact_label(fact)} in A")
    with right:
        st.page_link(
            links.FACT,
            label=f":blue[{escape(fact_label(twin))} in B]",
            query_params={"atlas": chosen, "fact": twin_id},
        )
    swap_link(kind="atlases", atlas=chosen, a=twin_id, other=here)
    measures = atlas_measures(atlas, other, fact, twin)
    show.show_measures(measures, here or atlas.atlas_id, chosen)
    prompts = comparison.prompts_in_both(atlas, other, fact["fact_id"], twin_id)
    show_predictions(prompts)
    show_depths(atlas, other, fact["fact_id"], twin_id)
    exports.offer(f"{fact['fact_id']}-{chosen}", measures=measures, prompts=prompts)


def suggest_facts(atlas: Atlas, other: str) -> None:
    layout.nothing("Choose a fact and another atlas to compare what each model knows of it.")
    for title, fact_id, _ in ask(comparison.examples, atlas, "atlases"):
        st.page_link(
            links.COMPARE,
            label=f"{title}: {escape(name_of(atlas, 'facts', fact_id))}",
            icon=":material/compare_arrows:",
            query_params=links.here(kind="atlases", a=fact_id, other=other),
        )


def atlas_measures(atlas: Atlas, other: Atlas, a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    models = [each.manifest.model for each in (atlas, other)]
    effects = [
        comparison.suppression(atlas, fact=a["fact_id"]),
        comparison.suppression(other, fact=b["fact_id"]),
    ]
    sizes = [
        f"{m.n_layers} × {m.n_neurons:,}" if m.n_layers and m.n_neurons else NOT_MEASURED for m in models
    ]
    return show.measure_rows(
        {
            "Model": [m.name for m in models],
            "Layers × neurons": sizes,
            "Known": [show.yes_or_no(fact["known"]) for fact in (a, b)],
            "Answer's probability (mean)": [formatted(f["mean_probability"], ".3f") for f in (a, b)],
            "Knowledge neurons": [formatted(fact["n_neurons"]) for fact in (a, b)],
            **show.effect_measures(effects, [show.why_no_effects(fact) for fact in (a, b)]),
        }
    )


def show_predictions(prompts: pd.DataFrame) -> None:
    st.subheader("What each model says", anchor=False)
    if prompts.empty:
        layout.nothing(f"Prompts: {NOT_MEASURED}.")
        return
    rows = prompts.assign(text=prompts["text"].map(with_blank))
    for column in ("says_a", "says_b"):
        rows[column] = [None if is_missing(token) else shown_token(token) for token in rows[column]]
    bar = {"format": "%.3f", "min_value": 0.0, "max_value": 1.0}
    shown = [f"{what}_{side}" for side in "ab" for what in ("probability", "rank", "says")]
    silent = [side.upper() for side in "ab" if prompts[f"rank_{side}"].isna().all()]
    st.dataframe(
        rows[["text", *shown]].dropna(axis="columns", how="all"),
        hide_index=True,
        alt="Prompts with the probability and rank of the answer in each model",
        column_config={
            "text": TextColumn("Prompt", width=230),
            "probability_a": ProgressColumn("Probability in A", width=118, **bar),
            "rank_a": NumberColumn("Rank in A", width=70),
            "says_a": TextColumn("A's first answer", width=90),
            "probability_b": ProgressColumn("Probability in B", width=118, **bar),
            "rank_b": NumberColumn("Rank in B", width=70),
            "says_b": TextColumn("B's first answer", width=90),
        },
    )
    n_missing = int(prompts[["rank_a", "rank_b"]].isna().any(axis=1).sum())
    if silent:
        st.caption(f"What {' and '.join(silent)} says: {NOT_MEASURED}.")
    elif n_missing:
        st.caption(
            f"{plural(n_missing, 'prompt')} went to one model only: a causal model takes only prompts that "
            "end with the answer."
        )


def show_depths(atlas: Atlas, other: Atlas, a: str, b: str) -> None:
    models = [each.manifest.model for each in (atlas, other)]
    if models[0].weights_sha256 and models[0].weights_sha256 == models[1].weights_sha256:
        st.caption("Both atlases are of the same model.")
    else:
        st.caption(
            "The models differ, and so do their neurons: L2.N23 of one is not L2.N23 of the other. "
            "Compare the numbers of neurons and their depth in the model."
        )
    layers = [comparison.layers_of_fact(atlas, a), comparison.layers_of_fact(other, b)]
    highest = max(float(rows["share"].fillna(0).max()) for rows in layers)
    for place, rows, second in zip(st.columns(2, gap="medium"), layers, (False, True), strict=True):
        with place:
            name = "B" if second else "A"
            layout.draw_chart(
                partial(charts.depth_bars, rows, models[second].name, second=second, highest=highest),
                f"Share of the fact's neurons by depth in the model of {name}",
            )
