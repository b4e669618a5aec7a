"""The tables of the Fact page: what the model says, a neuron's scores, what changing neurons did.

show_prompts(queries.prompts_of_fact(atlas, fact_id))
"""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.column_config import CheckboxColumn, NumberColumn, ProgressColumn, TextColumn

from app.shared import layout
from app.shared.words import NOT_MEASURED, is_missing, plural, shown_token, with_blank
from atlas.charts.effects import effect_name

# What tells rows apart comes first: a phone shows little more than the first column.
PROMPT = TextColumn("Prompt", width=430)


def show_prompts(prompts: pd.DataFrame) -> None:
    """The prompts with the answer's probability and rank, and the model's likeliest token.

    Without the columns that were not measured; where none was, the sentences alone.
    """
    if prompts.empty:
        layout.nothing(f"Prompts: {NOT_MEASURED}.")
        return
    tops = zip(prompts["top_token"], prompts["top_probability"], strict=True)
    rows = pd.DataFrame(
        {
            "prompt": prompts["text"].map(with_blank),
            "probability": prompts["probability"],
            "rank": prompts["rank"],
            "top": [first_answer(*pair) for pair in tops],
            "held_out": prompts["held_out"],
        }
    )
    answers = ("probability", "rank", "top")
    absent = [name for name in answers if rows[name].isna().all()]
    if len(absent) == len(answers):
        absent.append("held_out")
    st.dataframe(
        rows.drop(columns=absent),
        hide_index=True,
        alt="Prompts with the probability and rank of the answer",
        column_config={
            "prompt": PROMPT,
            "probability": ProgressColumn(
                "Probability",
                help="Of the right answer",
                min_value=0,
                max_value=1,
                format="%.3f",
                width=110,
            ),
            "rank": NumberColumn("Rank", help="1: the model's first answer", width=60),
            "top": TextColumn("First answer", help="The likeliest token and its probability", width=120),
            "held_out": CheckboxColumn(
                "Held out", width="small", help="Kept for evaluation, not used to find neurons"
            ),
        },
    )
    n_tokens = prompts["n_answer_tokens"].max()
    if not is_missing(n_tokens) and n_tokens > 1:
        st.caption(
            f"The answer has {int(n_tokens)} tokens: its probability is their product, its rank the worst of "
            "theirs; the first answer is the likeliest token at the first position."
        )
    if prompts["max_score"].notna().any():
        st.caption(
            certificate(prompts),
            help="A neuron's score is an integral, computed at a few points. Together the scores of a layer "
            "have to add up to a change of the answer's probability; the gap is what they do not.",
        )


def first_answer(token: object, probability: object) -> str | None:
    """The model's likeliest token and its probability, on one line."""
    if is_missing(token):
        return None
    return shown_token(token) + ("" if is_missing(probability) else f"  {probability:.3f}")


def certificate(prompts: pd.DataFrame) -> str:
    """The numerical error of the scores, in a sentence."""
    attributed = prompts[prompts["max_gap"].notna()]
    if attributed.empty:
        return f"Numerical error of the scores: {NOT_MEASURED}."
    paths = int((attributed["n_layers"] * attributed["n_answer_tokens"]).sum())
    converged = paths - int(attributed["n_unconverged"].sum())
    return (
        f"Neurons were found on {plural(len(attributed), 'prompt')}: {converged:,} of {paths:,} integrals "
        f"within tolerance, largest completeness gap {attributed['max_gap'].max():.2%} of the largest score."
    )


def show_prompt_scores(scores: pd.DataFrame, threshold: float) -> None:
    """One neuron's score in each prompt where it is stored, and whether it reaches the threshold."""
    st.dataframe(
        pd.DataFrame(
            {
                "prompt": scores["text"].map(with_blank),
                "relative": scores["relative"],
                "score": scores["score"],
                "counts": scores["relative"] >= threshold,
            }
        ),
        hide_index=True,
        alt="The neuron's score in each prompt where it is stored",
        column_config={
            "prompt": PROMPT,
            "relative": ProgressColumn(
                "Share of the prompt's largest", min_value=0, max_value=1, format="percent"
            ),
            "score": NumberColumn("Score", format="%.4f", width="small"),
            "counts": CheckboxColumn("Reaches the threshold", width="small"),
        },
    )


def _rank(rank: float | None) -> str:
    """A rank; imported results only say whether it is the first."""
    return "not 1" if is_missing(rank) else str(int(rank))


def show_effects_by_prompt(rows: pd.DataFrame) -> None:
    """What each change did to each prompt."""
    kinds = zip(rows["intervention"], rows["group"], strict=True)
    ranks = zip(*(rows[name].map(_rank) for name in ("rank_before", "rank_after")), strict=True)
    values = {"before": rows["p_before"], "after": rows["p_after"]}
    if rows["p_before"].isna().all():
        values = {"change": rows["relative_change"]}
    st.dataframe(
        pd.DataFrame(
            {
                "prompt": rows["text"].map(with_blank),
                "what": [effect_name(*kind) for kind in kinds],
                **values,
                "rank": [f"{before} → {after}" for before, after in ranks],
            }
        ),
        hide_index=True,
        alt="Probability and rank of the answer before and after each change",
        column_config={
            "prompt": PROMPT,
            "what": TextColumn("Changed"),
            "before": NumberColumn("Before", format="%.3f", width="small"),
            "after": NumberColumn("After", format="%.3f", width="small"),
            "change": NumberColumn("Change", format="percent", width="small"),
            "rank": TextColumn("Rank", width="small"),
        },
    )
