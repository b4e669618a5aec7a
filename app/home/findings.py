"""What the evidence says in the atlases at hand, first what speaks against; and the atlas in view, drawn."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import evidence as sentences
from app.shared import layout, links, resources
from app.shared.words import plural
from atlas import claims
from atlas.charts import effects as effect_charts
from atlas.models import title_of
from atlas.queries import evidence
from atlas.store.atlas import Atlas

MOST = 3


def show_findings(atlas: Atlas) -> None:
    """Nothing where no atlas has measured effects."""
    effects, facts = sentences.measured_effects(atlas)
    effects = sentences.on_held_out(effects)
    report = sentences.judged_report()
    said = findings(report)
    if not said:
        return
    st.subheader("What the evidence says", anchor=False)
    places = layout.columns({"said": 2, "drawn": 3} if len(effects) else {"said": 1})
    with places["said"]:
        for sentence in said:
            st.markdown(sentence)
        st.page_link(
            links.EVIDENCE,
            label=f"All {len(report.rows)} claims",
            icon=":material/balance:",
            query_params=links.here(),
        )
    if "drawn" in places:
        with places["drawn"], layout.errors_as_sentences():
            draw_whose()
            draw_effects(atlas, effects, facts, sentences.choose_ratio(effects))


def findings(report: claims.Report) -> list[str]:
    """The claims that most speaks against, then the first that holds everywhere it was measured."""
    against = [sentences.say_claim(row, claims.Verdict.FAILS) for row in report.against[:MOST]]
    holding = [row for row in report.with_verdict(claims.Verdict.HOLDS) if row not in report.against]
    return [*against, *(sentences.say_claim(row, claims.Verdict.HOLDS) for row in holding[:1])]


def draw_whose() -> None:
    """Whose neurons a fact's neurons are, in every atlas that measured it."""
    found = [
        parts[parts["relation_id"] == "all"].assign(what=title_of(manifest.model.name))
        for manifest, parts in resources.glances(evidence.specificity)
    ]
    rows = pd.concat([each for each in found if len(each)]) if any(map(len, found)) else pd.DataFrame()
    if len(rows):
        layout.draw_chart(
            partial(effect_charts.whose, rows),
            "What other facts lose without a fact's neurons",
        )
        sentences.note(
            "Without a fact's neurons its answer loses so much of its probability; coloured by what facts "
            "lose, too, that share its answer, its relation, or nothing with it. Relations in which all of "
            "them could be asked."
        )


def draw_effects(atlas: Atlas, effects: pd.DataFrame, facts: str, ratio: str) -> None:
    """Both effects in the atlas in view, beside other neurons and unrelated facts, with intervals."""
    effects = effects[
        effects["group"].isin(["own", *evidence.CONTROLS, "unrelated"]) & (effects["intervention"] != "mean")
    ]
    chart = partial(effect_charts.effect_intervals, effects, ratio=ratio)
    layout.draw_chart(chart, "Effects beside their controls")
    n_relations = effects.loc[effects["group"] == "own", "n_relations"].max()
    sentences.note(
        f"{title_of(atlas.manifest.model.name)}: mean over {plural(n_relations, 'relation')}, "
        f"{sentences.sample_size(effects, facts)}, on {sentences.templates_asked(atlas)}. "
        f"{sentences.RATIO_DEFINITIONS[ratio]} {sentences.describe_groups(effects)}"
    )
