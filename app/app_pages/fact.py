"""Fact: its prompts, its neurons, what they do, and the facts that share them. `?fact=` names it."""

import pandas as pd
import streamlit as st

from app import charts, layout
from atlas import queries
from atlas.store import Atlas

NEURONS_SHOWN = 8
SHARING_SHOWN = 8
CARD_WIDTH = 220
BLANK = "____"


def main() -> None:
    atlas = layout.current_atlas()
    fact_id = st.query_params.get("fact")
    if not fact_id:
        layout.choose_a_fact()
        return
    fact = queries.fact(atlas, fact_id)
    prompts = queries.prompts_of_fact(atlas, fact_id)
    neurons = queries.neurons_of_fact(atlas, fact_id)

    heading(fact)
    with layout.errors_as_sentences():
        prompts_table(prompts)
    left, right = st.columns([3, 2], gap="medium")
    with left, layout.errors_as_sentences():
        score_map(atlas, fact, prompts)
    with right, layout.errors_as_sentences():
        effects(atlas, fact)
    with layout.errors_as_sentences():
        neuron_cards(neurons)
    if not neurons.empty:
        with layout.errors_as_sentences():
            neuron_table(neurons)
        with layout.errors_as_sentences():
            sharing(atlas, fact_id)


def heading(fact: dict) -> None:
    st.title(layout.plain(layout.fact_name(fact["subject"], fact["object"])), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        layout.relation_link(fact["relation_id"], f"{fact['label'] or ''} ({fact['relation_id']})".strip())
        layout.known_badge(fact["known"])
        st.caption(
            f"Mean probability {layout.number(fact['mean_probability'], '.2f')} · "
            f"{layout.count(fact['n_neurons'], 'knowledge neuron')}"
        )
        layout.lab_link(fact["fact_id"])


def prompts_table(prompts: pd.DataFrame) -> None:
    st.subheader("What the model says", anchor=False)
    if prompts.empty:
        layout.nothing(f"Prompts: {layout.NOT_MEASURED}.")
        return
    tops = zip(prompts["top_token"], prompts["top_probability"], strict=True)
    rows = pd.DataFrame(
        {
            "prompt": prompts["text"].str.replace("[Y]", BLANK, regex=False),
            "probability": prompts["probability"],
            "rank": prompts["rank"],
            "top": [first_answer(*pair) for pair in tops],
            "held_out": prompts["held_out"],
        }
    )
    st.dataframe(
        rows,
        hide_index=True,
        alt="Prompts with the probability and rank of the answer",
        column_config={
            "prompt": st.column_config.TextColumn("Prompt", width=470),
            "probability": st.column_config.ProgressColumn(
                "Answer's probability", min_value=0, max_value=1, format="%.3f"
            ),
            "rank": st.column_config.NumberColumn("Rank", help="1: the model's first answer", width="small"),
            "top": st.column_config.TextColumn("First answer", help="Its most likely token, its probability"),
            "held_out": st.column_config.CheckboxColumn(
                "Held out", width="small", help="Kept for evaluation: not used to find neurons"
            ),
        },
    )
    st.caption(certificate(prompts))


def first_answer(token: object, probability: object) -> str | None:
    """The model's most likely token and its probability, on one line."""
    if layout.is_missing(token):
        return None
    return layout.shown_token(token) + ("" if layout.is_missing(probability) else f"  {probability:.3f}")


def certificate(prompts: pd.DataFrame) -> str:
    """How exact the scores are, in a sentence."""
    attributed = prompts[prompts["max_gap"].notna()]
    if attributed.empty:
        return f"Certificate of the scores: {layout.NOT_MEASURED}."
    open_paths, paths = (
        attributed["n_unconverged"].sum(),
        (attributed["n_layers"] * attributed["n_answer_tokens"]).sum(),
    )
    return (
        f"Neurons were found on {layout.count(len(attributed), 'prompt')}: {int(paths - open_paths):,} of "
        f"{int(paths):,} integrals within tolerance, largest completeness gap "
        f"{attributed['max_gap'].max():.2%} of the largest score."
    )


def effects(atlas: Atlas, fact: dict) -> None:
    st.subheader("What its neurons do", anchor=False)
    rows = queries.effects_of_fact(atlas, fact["fact_id"])
    rows = rows[rows["n_neurons"].fillna(1) > 0]
    if rows.empty:
        why = "it has no knowledge neurons" if fact["n_neurons"] == 0 else layout.NOT_MEASURED
        layout.nothing(f"Effects of changing its neurons: {why}.")
        return
    layout.draw(charts.effect_moves(rows), "Probability of the answer before and after, beside the controls")
    st.caption(
        "×0 suppresses, ×2 amplifies: its own neurons, as many random ones of the same layers, and its own "
        "while unrelated facts are asked."
    )


def score_map(atlas: Atlas, fact: dict, prompts: pd.DataFrame) -> None:
    st.subheader("Where it is", anchor=False)
    attributed = prompts[prompts["max_score"].notna()]
    texts = attributed["text"].str.replace("[Y]", BLANK, regex=False)
    options = dict(zip(attributed["template_id"], texts, strict=True))
    template_id = None
    if options:
        template_id = layout.choice(
            "Scores of", "template", options, placeholder="all prompts (mean)", label_visibility="collapsed"
        )
    scores = queries.attributions_of_fact(atlas, fact["fact_id"], template_id=template_id)
    if scores.empty:
        why = "no prompt has a positive score" if options else layout.NOT_MEASURED
        layout.nothing(f"Attribution scores: {why}.")
        return
    model = atlas.manifest.model
    layout.draw(
        charts.score_map(scores, n_layers=model.n_layers, n_neurons=model.n_neurons),
        "Attribution scores by layer and neuron",
    )


def neuron_cards(neurons: pd.DataFrame) -> None:
    st.subheader("Its neurons", anchor=False)
    if neurons.empty:
        layout.nothing(
            "This fact has no knowledge neurons: no neuron scored high enough on enough of its prompts."
        )
        return
    with st.container(horizontal=True, gap="small"):
        for row in neurons.head(NEURONS_SHOWN).itertuples(index=False):
            with st.container(border=True, width=CARD_WIDTH, height="stretch", gap=None):
                layout.neuron_link(row.layer, row.neuron)
                st.caption(
                    f"score {layout.number(row.mean_score, '.3f')}, {layout.percent(row.share)} of prompts"
                )
                st.caption(
                    f"{layout.count(row.n_facts, 'fact')}, {layout.count(row.n_relations, 'relation')}"
                )
                promoted = layout.tokens(row.promoted, 5) or layout.NOT_MEASURED
                st.caption(layout.plain(f"promotes {promoted}"))
    if len(neurons) > NEURONS_SHOWN:
        st.caption(f"and {len(neurons) - NEURONS_SHOWN} more in the table below")


def neuron_table(neurons: pd.DataFrame) -> None:
    with st.expander(f"All {len(neurons)} neurons as a table" if len(neurons) > 1 else "As a table"):
        layout.neuron_table(neurons)


def sharing(atlas: Atlas, fact_id: str) -> None:
    st.subheader("Facts that share its neurons", anchor=False)
    others = queries.facts_sharing_neurons(atlas, fact_id, limit=SHARING_SHOWN)
    if others.empty:
        layout.nothing("No other fact has any of its neurons.")
        return
    layout.fact_rows(others, notes=shared_note)


def shared_note(row) -> str:
    return (
        f"{layout.count(row.n_shared, 'neuron')} in common of {layout.number(row.n_neurons)} · "
        f"{row.label or row.relation_id}{' (the same relation)' if row.same_relation else ''}"
    )


main()
