"""How the answer arises layer by layer, and what the model writes with and without the fact's neurons.

    exported["lens"] = show_lens(atlas, fact)
    exported["written"] = show_written(atlas, fact)

Both are stored; nothing is drawn of a fact for which they are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, ProgressColumn, TextColumn

from app.shared import address, layout
from app.shared.texts import draw, parted
from app.shared.words import escape, fact_name, is_missing, plural, shown_token, token_pairs, with_blank
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.store.atlas import Atlas

LENS_EXPLAINED = (
    "The logit lens: after each layer, the model's last norm and output layer read the state at the answer's "
    "place as if no layer came after it."
)


# Layer by layer --------------------------------------------------------------------------------------


def show_lens(atlas: Atlas, fact: Mapping[str, Any]) -> pd.DataFrame:
    """The answer's probability after each layer, the likeliest words there, and where its neurons lie."""
    rows = queries.lens_of_fact(atlas, fact["fact_id"])
    if rows.empty:
        return rows
    st.subheader("How the answer arises", anchor=False, help=LENS_EXPLAINED)
    texts = dict(zip(rows["template_id"], rows["text"].map(with_blank), strict=True))
    template = address.segments("Prompt", "lens", {each: escape(text) for each, text in texts.items()})
    shown = rows[rows["template_id"] == template].reset_index(drop=True)
    shown["says"] = [
        ", ".join(shown_token(each["token"]) for each in token_pairs(top)) for top in shown["top"]
    ]
    left, right = st.columns([2, 3], gap="medium")
    with left:
        layout.draw_chart(
            partial(neuron_charts.lens_lines, shown), "Probability of the answer after each layer"
        )
    with right:
        lens_table(shown)
    st.caption(
        "Early layers are unreliable: the output layer was trained to read the last one. Only the answer's "
        "first token is followed."
    )
    return rows


def lens_table(layers: pd.DataFrame) -> None:
    """The layers from the last to the first. layers: as `queries.lens_of_fact`, with the words it `says`."""
    st.dataframe(
        pd.DataFrame(
            {
                "layer": layers["layer"],
                "says": layers["says"],
                "probability": layers["probability"],
                "rank": layers["rank"],
                "n_neurons": layers["n_neurons"],
            }
        )[::-1],
        hide_index=True,
        alt="Likeliest words after each layer, the last one first, and the answer's probability and rank",
        column_config={
            "layer": NumberColumn("Layer", width=60, help="Counted from 0"),
            "says": TextColumn("Would say", width=230, help="The three likeliest tokens"),
            "probability": ProgressColumn(
                "Answer", min_value=0, max_value=1, format="%.3f", width=110, help="The answer's probability"
            ),
            "rank": NumberColumn("Rank", width=60, help="Of the answer; 1: the model would say it"),
            "n_neurons": NumberColumn(
                "Its neurons", width=80, help="How many of the fact's lie in this layer"
            ),
        },
    )


# Word for word ---------------------------------------------------------------------------------------


def show_written(atlas: Atlas, fact: Mapping[str, Any]) -> pd.DataFrame:
    """What the model writes as it is, without the fact's neurons, and without as many random ones."""
    rows = queries.generations_of_fact(atlas, fact["fact_id"])
    if rows.empty:
        return rows
    n = int(rows["n_neurons"].max())
    st.subheader(
        "What the model writes",
        anchor=False,
        help="20 tokens, each the likeliest after those before it. The neurons are switched off from the end "
        "of the prompt on: there, and at every token that is written.",
    )
    own = rows[rows["group"] != "unrelated"].set_index("group")
    titles = {
        "unchanged": "As it is",
        "own": f"Without its {plural(n, 'neuron')}",
        "random": f"Without {plural(n, 'random neuron')}",
    }
    there = {group: title for group, title in titles.items() if group in own.index}
    for place, (group, title) in zip(st.columns(len(there), gap="medium"), there.items(), strict=True):
        with place.container(border=True, height="stretch"):
            show_text(title, own.loc[group], "text", marked=group != "unchanged")
    st.caption("The first word that differs is marked.")
    for _, row in rows[rows["group"] == "unrelated"].iterrows():
        name, same = fact_name(row["subject"], row["object"]), row["text"] == row["unchanged"]
        with st.expander(f"Asked about something else: {'the same text' if same else 'another text'}"):
            st.caption(escape(name))
            show_text("As it is", row, "unchanged", marked=False)
            show_text(titles["own"], row, "text", marked=True)
    return rows


def show_text(title: str, row: pd.Series, column: str, *, marked: bool) -> None:
    """What was asked and the text after it; `marked`, where it first differs from the unchanged one."""
    asked = with_blank(row["prompt"]).partition("____")[0].rstrip()
    beside = row["unchanged"] if marked and not is_missing(row["unchanged"]) else None
    text = "" if is_missing(row[column]) else row[column]
    st.markdown(f"**{escape(title)}**")
    draw(parted(text, beside=beside, asked=asked))
