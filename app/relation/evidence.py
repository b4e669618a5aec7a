"""What experiments found of one relation: suppress and amplify, erase, edit; each beside random neurons.

    tables |= show_relation_effects(atlas, "P36")       # draws, and returns what it drew for the exports

Each says where its table was not measured, or does not include this relation.
"""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import address, layout
from app.shared import evidence as sentences
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, plural
from atlas import queries
from atlas.charts import changes as change_charts
from atlas.charts import effects as effect_charts
from atlas.queries import evidence
from atlas.store.atlas import Atlas

# Relative losses of accuracy below LITTLE count as none; from MUCH of an effect on, a control is remarked on.
LITTLE, MUCH = 0.1, 0.5

SWITCHED_OFF = "Each fact's neurons switched off"

Tables = dict[str, pd.DataFrame]


# Suppress and amplify --------------------------------------------------------------------------------


def show_relation_effects(atlas: Atlas, relation_id: str) -> Tables:
    """What switching each fact's neurons off does, beside controls; folded, the paper's figures 3 and 4."""
    rows, facts = sentences.measured_effects(atlas, relation=relation_id)
    if rows.empty:
        return _effects_of_a_build(atlas, relation_id)
    first = st.container()
    held_out = sentences.on_held_out(rows)
    with st.expander("Turned up (×2), and on the prompts that found the neurons"):
        ratio = sentences.choose_ratio(rows)
        layout.draw_chart(
            partial(effect_charts.effect_intervals, rows, ratio=ratio, title="Every change"),
            "Effects of changing each fact's neurons, beside controls",
        )
        bars = "Full bars: held-out templates; faint bars: discovery templates."
        if len(held_out) == len(rows):
            bars = f"On {sentences.templates_asked(atlas)}."
        sentences.note(
            f"{sentences.sample_size(rows, facts)}. {bars} {sentences.RATIO_DEFINITIONS[ratio]} "
            f"{sentences.describe_groups(held_out)}"
        )
    with first:
        off = held_out[held_out["intervention"] == "suppress"]
        for part, text in sentences.split_groups(off):
            title = f"{SWITCHED_OFF}{text}"
            layout.draw_chart(partial(effect_charts.effect_intervals, part, ratio=ratio, title=title), title)
        parts = ask(evidence.specificity, atlas, relation=relation_id)
        if not parts.empty:
            st.markdown(sentences.whose(parts))
        verdicts = (sentences.verdict(held_out, each, ratio=ratio) for each in ("suppress", "amplify"))
        st.markdown(" ".join(filter(None, verdicts)))
    return {"effects": rows}


def _effects_of_a_build(atlas: Atlas, relation_id: str) -> Tables:
    """What a build alone measures: two controls, without intervals."""
    rows, facts = (
        ask(queries.effect_summary, atlas, known=True, held_out=True, relation=relation_id),
        "known facts",
    )
    if rows.empty:
        rows = ask(queries.effect_summary, atlas, held_out=True, relation=relation_id)
        facts = "facts (the model knows none of them)"
    if rows.empty:
        layout.nothing(f"Suppressing and amplifying: {NOT_MEASURED}.")
        return {}
    off = rows[rows["intervention"] == "suppress"]
    layout.draw_chart(partial(effect_charts.effect_bars, off, title=SWITCHED_OFF), SWITCHED_OFF)
    with st.expander("Turned up (×2)"):
        layout.draw_chart(
            partial(effect_charts.effect_bars, rows, title="Each fact's own neurons"),
            "Effects of changing each fact's neurons, beside controls",
        )
    n = int(rows["n_facts"].max())
    asked = sentences.templates_asked(atlas)
    st.caption(f"{sentences.describe_groups(rows)} Mean over its {n:,} {facts}, on {asked}.")
    return {"effects": rows}


# Erase -----------------------------------------------------------------------------------------------


def show_erasing(atlas: Atlas, relation_id: str) -> Tables:
    """What erasing its most frequent neurons does to its own prompts and to those of other relations."""
    doses = ask(evidence.erasure_doses, atlas, relation_id)
    if doses.empty:
        why = sentences.why_absent(atlas, "erasures", "Erasing the neurons that all its facts share")
        layout.nothing(f"{why} Add the most shared neurons to the tray and erase them in the Lab.")
        return {}
    elsewhere = ask(evidence.erasure_elsewhere, atlas, relation_id)
    first = st.container()
    with st.expander("Other relations, and perplexity"):
        measure = address.segments("Measure", "erased", {"accuracy": "Accuracy", "perplexity": "Perplexity"})
        if not elsewhere["itself"].all():
            layout.draw_chart(
                partial(change_charts.elsewhere_strip, elsewhere, measure=measure),
                "What erasing them does to every relation's prompts",
            )
    with first:
        layout.draw_chart(
            partial(change_charts.dose_lines, doses, measure=measure),
            "What erasing its most frequent neurons does to its own prompts, by their number",
        )
        st.markdown(describe_erasing(doses, elsewhere))
    sentences.note(
        "Erasing sets the value vectors of the neurons that most of its facts have to zero, at every "
        f"position. The dotted line is before. Evaluated on {plural(doses['n_prompts'].max(), 'prompt')} of "
        f"its own, {_span(elsewhere.loc[~elsewhere['itself'], 'n_prompts'])} of each other relation."
    )
    return {"erasing_by_dose": doses, "erasing_and_other_relations": elsewhere}


def _span(counts: pd.Series) -> str:
    if counts.empty:
        return "none"
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def describe_erasing(doses: pd.DataFrame, elsewhere: pd.DataFrame) -> str:
    """Accuracy after the dose of `elsewhere`: on its own prompts, with random neurons, on other relations.

    `doses`: as `evidence.erasure_doses`; `elsewhere`: as `evidence.erasure_elsewhere`.
    """
    n = int(elsewhere["n_neurons"].iloc[0])
    own = doses[doses["group"] == "own"].set_index("n_neurons")
    if n not in own.index:
        return ""
    before, after = (float(own.loc[n, f"accuracy_{when}"]) for when in ("before", "after"))
    random = doses[(doses["group"] == "random") & (doses["n_neurons"] == n)]["accuracy_after"]
    beside = f"; with as many random neurons {random.iloc[0]:.0%}" if len(random) else ""
    text = [
        f"Erasing its {plural(n, 'most frequent neuron')} leaves **{after:.0%}** of its prompts answered "
        f"right (before {before:.0%}{beside})."
    ]
    loss = 1 - after / before if before > 0 else 0.0
    most = int(own.index.max())
    if before > 0 and loss < LITTLE:
        text.append(f"**That is almost no loss**; erasing {most:,} leaves {own['accuracy_after'][most]:.0%}.")
    others = elsewhere[(elsewhere["group"] == "own") & ~elsewhere["itself"]]
    if len(others):
        others_before, others_after = others["accuracy_before"].mean(), others["accuracy_after"].mean()
        text.append(f"On other relations' prompts **{others_after:.0%}** (before {others_before:.0%}).")
        others_loss = 1 - others_after / others_before if others_before > 0 else 0.0
        if loss >= LITTLE and others_loss >= MUCH * loss:
            text.append(
                f"**Other relations lose much too:** {others_loss:.0%} of their right answers, this one "
                f"{loss:.0%}."
            )
    return " ".join(text)


# Edit ------------------------------------------------------------------------------------------------


def show_edit_rates(atlas: Atlas, relation_id: str) -> Tables:
    """How often edits of its facts succeed, and how often other facts stay as they were."""
    rates = ask(evidence.edit_rates, atlas, relation=relation_id)
    if rates.empty:
        layout.nothing(sentences.why_absent(atlas, "edits", "Editing its facts"))
        return {}
    strengths = {
        f"{add:g}": f"λ₁ = {remove:g}, λ₂ = {add:g}"
        for remove, add in dict.fromkeys(zip(rates["remove"], rates["add"], strict=True))
    }
    first = st.container()
    with st.expander("Rewritten: every measure"):
        chosen = address.segments("Strengths", "strength", strengths)
        shown = rates[[f"{add:g}" == chosen for add in rates["add"]]]
        layout.draw_chart(
            partial(change_charts.edit_bars, shown), "How often edits succeed, beside random neurons"
        )
        sentences.note(
            "Edits of known facts: the value vectors of the fact's neurons lose λ₁ × the old answer's "
            "embedding and gain λ₂ × that of another object of the relation. Once without the common neurons "
            "(those of more than a tenth of the relation's facts), once with them. The control is as many "
            "random neurons of the same layers. Brackets hold the number of prompts."
        )
    with first:
        st.markdown(f"**Rewritten to another answer.** {describe_edits(shown)}")
    return {"edits": rates}


def describe_edits(rates: pd.DataFrame) -> str:
    """Success, paraphrases and other facts, in sentences. `rates`: of one pair of strengths."""
    share = rates.set_index(["measure", "group"])["share"]
    if ("success", "own") not in share.index:
        return ""
    n = int(rates["n_edits"].max())
    success = share["success", "own"]
    text = f"Of {plural(n, 'edit')}, **{success:.0%}** put the new answer first"
    if ("success", "random") in share.index:
        random = share["success", "random"]
        text += f" (random neurons: {random:.0%})"
        if random > 0 and random >= MUCH * success:
            text += (
                ": **random neurons do as much**"
                if random >= success
                else ": **random neurons do much of that**"
            )
    text += "."
    if ("paraphrase", "own") in share.index:
        text += f" On paraphrases {share['paraphrase', 'own']:.0%} do."
    others = {
        "same_object": "with the same answer",
        "same_relation": "of the relation",
        "other_relation": "of other relations",
    }
    kept = {where: share[name, "own"] for name, where in others.items() if (name, "own") in share.index}
    if kept:
        *first, last = [f"{part:.0%} of the prompts {where}" for where, part in kept.items()]
        parts = f"{', '.join(first)} and {last}" if first else last
        lost = ": **other facts are lost too**" if min(kept.values()) < MUCH else ""
        text += f" Right answers about other facts stay on {parts}{lost}."
    return text
