"""What experiments on the atlases at hand found, in three sentences; and in the atlas in view, drawn.

Each sentence says what the thesis predicts, then what was measured, and in which models it does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from app.home.example import Seen
from app.shared import evidence as sentences
from app.shared import layout, links
from app.shared.words import escape, plural
from atlas.charts import effects as effect_charts
from atlas.models import title_of
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.store.atlas import Atlas


def show_findings(atlas: Atlas, seen: Mapping[str, Seen]) -> None:
    """Nothing where no atlas has measured effects."""
    measured: dict[str, pd.DataFrame] = {}
    for manifest, overview in seen.values():
        if not overview.effects.empty:
            # Of two atlases of one model, the first.
            measured.setdefault(title_of(manifest.model.name), sentences.on_held_out(overview.effects))
    effects, facts = sentences.measured_effects(atlas)
    effects = sentences.on_held_out(effects)
    if not measured and effects.empty:
        return
    st.subheader("What the evidence says", anchor=False)
    places = layout.columns({"said": 2, "drawn": 3} if len(effects) else {"said": 1})
    with places["said"]:
        ratio = "paper" if effects.empty else sentences.choose_ratio(effects)
        for sentence in findings(measured, ratio=ratio):
            st.markdown(sentence)
        st.caption(
            "Known facts, on prompts that did not find their neurons; means over relations, with 95 % "
            "intervals. Every number beside the paper's is in docs/evidence/report.md, what follows from "
            "them in docs/what-they-show.md."
        )
        st.page_link(
            links.RELATION,
            label="Relation by relation",
            icon=":material/category:",
            query_params=links.here(),
        )
    if "drawn" in places:
        with places["drawn"], layout.errors_as_sentences():
            draw_effects(atlas, effects, facts, ratio)


def findings(measured: Mapping[str, pd.DataFrame], *, ratio: str) -> list[str]:
    """The sentences; `measured`: title of a model → rows of `evidence.effects`, of one kind of templates."""
    if not measured:
        return []

    def changes(intervention: str, group: str) -> str:
        return ", ".join(
            f"{_change(rows, intervention, group, ratio)} in {escape(title)}"
            for title, rows in measured.items()
        )

    def not_in(intervention: str) -> str:
        found = {title: evidence.judged(rows, intervention, ratio=ratio) for title, rows in measured.items()}
        return _except([title for title, each in found.items() if each is None or not each.expected])

    return [
        "**Suppressing** a fact's neurons should lower the probability of its answer. It changes by "
        f"{changes('suppress', 'own')}; without as many random neurons by {changes('suppress', 'random')}."
        f"{not_in('suppress')}",
        "**Other facts** should stay as they are. Without the same neurons, the answers of unrelated facts "
        f"change by {changes('suppress', 'unrelated')}.",
        "**Amplifying** the neurons should raise the answer's probability. It changes by "
        f"{changes('amplify', 'own')}.{not_in('amplify')}",
    ]


def _row(rows: pd.DataFrame, intervention: str, group: str) -> pd.Series | None:
    found = rows[(rows["intervention"] == intervention) & (rows["group"] == group)]
    return None if found.empty else found.iloc[0]


def _change(rows: pd.DataFrame, intervention: str, group: str, ratio: str) -> str:
    """`**−90%** (−97% to −80%)`."""
    row = _row(rows, intervention, group)
    if row is None or pd.isna(row[f"{ratio}_change"]):
        return "(not measured)"
    change = signed_percent(row[f"{ratio}_change"])
    low, high = row[f"{ratio}_low"], row[f"{ratio}_high"]
    between = "" if pd.isna(low) else f" ({signed_percent(low)} to {signed_percent(high)})"
    return f"**{change}**{'' if group == 'random' else between}"


def _except(titles: list[str]) -> str:
    return f" **Not so in {escape(' and '.join(titles))}.**" if titles else ""


def draw_effects(atlas: Atlas, effects: pd.DataFrame, facts: str, ratio: str) -> None:
    """The effects in the atlas in view beside all controls, with intervals."""
    chart = partial(effect_charts.effect_intervals, effects, ratio=ratio)
    layout.draw_chart(chart, "Effects beside their controls")
    n_relations = effects.loc[effects["group"] == "own", "n_relations"].max()
    sentences.note(
        f"{title_of(atlas.manifest.model.name)}: mean over {plural(n_relations, 'relation')}, "
        f"{sentences.sample_size(effects, facts)}, on {sentences.templates_asked(atlas)}. "
        f"{sentences.RATIO_DEFINITIONS[ratio]} {sentences.describe_groups(effects)}"
    )
