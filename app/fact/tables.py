"""The tables of the Fact page: what the model says, a neuron's scores, what changing neurons did.

fact_tables.what_it_says(queries.prompts_of_fact(a, fact_id))
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.shared import layout
from app.shared.words import NOT_MEASURED, is_missing, plural, shown_token
from atlas.charts import look as charts

BLANK = "____"


def what_it_says(prompts: pd.DataFrame) -> None:
    """The prompts with the answer's probability and rank, and the model's first answer."""
    if prompts.empty:
        layout.nothing(f"Prompts: {NOT_MEASURED}.")
        return
    tops = zip(prompts["top_token"], prompts["top_probability"], strict=True)
    rows = pd.DataFrame(
        {
            "probability": prompts["probability"],
            "rank": prompts["rank"],
            "top": [first_answer(*pair) for pair in tops],
            "prompt": prompts["text"].str.replace("[Y]", BLANK, regex=False),
            "held_out": prompts["held_out"],
        }
    )
    names = {"probability": "Probability of the answer", "rank": "its rank", "top": "first answer"}
    absent = [name for name in names if rows[name].isna().all()]
    st.dataframe(
        rows.drop(columns=absent),
        hide_index=True,
        alt="Prompts with the probability and rank of the answer",
        column_config={
            "probability": st.column_config.ProgressColumn(
                "P(answer)",
                help="The answer's probability",
                min_value=0,
                max_value=1,
                format="%.3f",
                width=110,
            ),
            "rank": st.column_config.NumberColumn("Rank", help="1: the model's first answer", width=60),
            "top": st.column_config.TextColumn(
                "First answer", help="The model's most likely token and its probability", width=120
            ),
            "prompt": st.column_config.TextColumn("Prompt", width=430),
            "held_out": st.column_config.CheckboxColumn(
                "Held out", width="small", help="Kept for evaluation: not used to find neurons"
            ),
        },
    )
    if absent:
        st.caption(f"{', '.join(names[name] for name in absent)}: {NOT_MEASURED}.")
    n_tokens = prompts["n_answer_tokens"].max()
    if not is_missing(n_tokens) and n_tokens > 1:
        st.caption(
            f"The answer is {int(n_tokens)} tokens: its probability is the product over them, its rank that "
            "of the worst, and the first answer is the model's where the first of them goes."
        )
    st.caption(certificate(prompts))


def first_answer(token: object, probability: object) -> str | None:
    """The model's most likely token and its probability, on one line."""
    if is_missing(token):
        return None
    return shown_token(token) + ("" if is_missing(probability) else f"  {probability:.3f}")


def certificate(prompts: pd.DataFrame) -> str:
    """How exact the scores are, in a sentence."""
    attributed = prompts[prompts["max_gap"].notna()]
    if attributed.empty:
        return f"Certificate of the scores: {NOT_MEASURED}."
    open_paths, paths = (
        attributed["n_unconverged"].sum(),
        (attributed["n_layers"] * attributed["n_answer_tokens"]).sum(),
    )
    return (
        f"Neurons were found on {plural(len(attributed), 'prompt')}: {int(paths - open_paths):,} of "
        f"{int(paths):,} integrals within tolerance, largest completeness gap "
        f"{attributed['max_gap'].max():.2%} of the largest score."
    )


def prompt_scores(scores: pd.DataFrame, threshold: float) -> None:
    """One neuron's score in each prompt where it is stored; those that reach the threshold count."""
    st.dataframe(
        pd.DataFrame(
            {
                "relative": scores["relative"],
                "score": scores["score"],
                "counts": scores["relative"] >= threshold,
                "prompt": scores["text"].str.replace("[Y]", BLANK, regex=False),
            }
        ),
        hide_index=True,
        alt="The neuron's score in each prompt where it is stored",
        column_config={
            "relative": st.column_config.ProgressColumn(
                "Of the prompt's largest", min_value=0, max_value=1, format="percent"
            ),
            "score": st.column_config.NumberColumn("Score", format="%.4f", width="small"),
            "counts": st.column_config.CheckboxColumn("Counts", width="small"),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
        },
    )


def effects(rows: pd.DataFrame) -> None:
    """What each change did to each prompt."""
    kinds = zip(rows["intervention"], rows["group"], strict=True)
    st.dataframe(
        pd.DataFrame(
            {
                "what": [f"{charts.INTERVENTIONS.get(i, i)}, {charts.GROUPS.get(g, g)}" for i, g in kinds],
                "before": rows["p_before"],
                "after": rows["p_after"],
                "rank": [f"{a} → {b}" for a, b in zip(rows["rank_before"], rows["rank_after"], strict=True)],
                "prompt": rows["text"].str.replace("[Y]", BLANK, regex=False),
            }
        ),
        hide_index=True,
        alt="Probability and rank of the answer before and after each change",
        column_config={
            "what": st.column_config.TextColumn("Changed"),
            "before": st.column_config.NumberColumn("Before", format="%.3f", width="small"),
            "after": st.column_config.NumberColumn("After", format="%.3f", width="small"),
            "rank": st.column_config.TextColumn("Rank", width="small"),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
        },
    )
