"""What experiments found of one relation: suppress and amplify, erase, edit; each beside random neurons.

    tables |= relation_evidence.effects(atlas, "P36")       # draws, and gives what it drew for the exports

Each says where its table was not measured, or did not take this relation.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.shared import address, layout
from app.shared import evidence as evidence_show
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, plural
from atlas import queries
from atlas.charts import evidence as evidence_charts
from atlas.charts import look as charts
from atlas.queries import evidence
from atlas.store.atlas import Atlas

MEASURES = {"accuracy": "Right answers", "perplexity": "Perplexity"}
# A smaller loss of right answers is next to none; half of what is claimed is much for a control, or to lose.
LITTLE, MUCH = 0.1, 0.5

Tables = dict[str, pd.DataFrame]


# Suppress and amplify --------------------------------------------------------------------------------


def effects(atlas: Atlas, relation_id: str) -> Tables:
    """The paper's figures 3 and 4 for this relation, with intervals."""
    rows, facts = evidence_show.effects_of(atlas, relation=relation_id)
    if rows.empty:
        return _effects_of_a_build(atlas, relation_id)
    ratio = evidence_show.choose_ratio()
    layout.draw_chart(
        evidence_charts.effect_intervals(rows, ratio=ratio, title="Each fact's own neurons"),
        "Effects of changing each fact's neurons, beside controls",
    )
    held_out = rows[rows["templates"] == "held-out"]
    said = (evidence_show.verdict(held_out, each, ratio=ratio) for each in charts.INTERVENTIONS)
    st.markdown(" ".join(filter(None, said)))
    evidence_show.note(
        f"{evidence_show.counted(rows, facts)}. Full bars: wordings that were held out; faint ones: those "
        f"that found the neurons. {evidence_show.RATIO_SAID[ratio]} {evidence_show.groups_said(held_out)}"
    )
    return {"effects": rows}


def _effects_of_a_build(atlas: Atlas, relation_id: str) -> Tables:
    """What a build alone measures: held-out prompts and two controls, without intervals."""
    rows = ask(queries.effect_summary, atlas, known=True, held_out=True, relation=relation_id)
    asked = "known facts"
    if rows.empty:
        rows = ask(queries.effect_summary, atlas, held_out=True, relation=relation_id)
        asked = "facts, none of which the model knows"
    if rows.empty:
        layout.nothing(f"Suppressing and amplifying: {NOT_MEASURED}.")
        return {}
    layout.draw_chart(
        charts.effect_bars(rows, title="Each fact's own neurons"),
        "Effects of changing each fact's neurons, beside controls",
    )
    n = int(rows["n_facts"].max())
    st.caption(
        f"Each fact's own neurons ×0 and ×2, mean over its {n:,} {asked}, on held-out wordings. "
        "Beside it: as many random neurons of the same layers, and unrelated facts under the change."
    )
    return {"effects": rows}


# Erase -----------------------------------------------------------------------------------------------


def erasing(atlas: Atlas, relation_id: str) -> Tables:
    """What erasing its most frequent neurons does to its own prompts, and to other relations'."""
    doses = ask(evidence.erasure_doses, atlas, relation_id)
    if doses.empty:
        why = evidence_show.absent(atlas, "erasures", "Erasing the neurons that all its facts share")
        layout.nothing(f"{why} Put the most shared ones into the tray and erase them in the Lab.")
        return {}
    elsewhere = ask(evidence.erasure_elsewhere, atlas, relation_id)
    measure = address.one_of("Measure", "erased", MEASURES, label_visibility="collapsed")
    layout.draw_chart(
        evidence_charts.dose_lines(doses, measure=measure),
        "What erasing its most frequent neurons does to its own prompts, by their number",
    )
    if not elsewhere["itself"].all():
        layout.draw_chart(
            evidence_charts.elsewhere_strip(elsewhere, measure=measure),
            "What erasing them does to every relation's prompts",
        )
    st.markdown(what_erasing_does(doses, elsewhere))
    evidence_show.note(
        "Erased are the neurons that most of its facts have: their value vectors become zero, everywhere. "
        f"The dotted line is before. Asked: {plural(doses['n_prompts'].max(), 'prompt')} of its own, "
        f"{_span(elsewhere.loc[~elsewhere['itself'], 'n_prompts'])} of each other relation."
    )
    return {"erasing_by_dose": doses, "erasing_and_other_relations": elsewhere}


def _span(counts: pd.Series) -> str:
    if counts.empty:
        return "none"
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def what_erasing_does(doses: pd.DataFrame, elsewhere: pd.DataFrame) -> str:
    """Right answers after the dose of `elsewhere`: its own, with random neurons, of other relations.

    `doses`: as `evidence.erasure_doses`; `elsewhere`: as `evidence.erasure_elsewhere`.
    """
    n = int(elsewhere["n_neurons"].iloc[0])
    own = doses[doses["group"] == "own"].set_index("n_neurons")
    if n not in own.index:
        return ""
    before, after = (float(own.loc[n, f"accuracy_{when}"]) for when in ("before", "after"))
    random = doses[(doses["group"] == "random") & (doses["n_neurons"] == n)]["accuracy_after"]
    beside = f"; without as many random ones {random.iloc[0]:.0%}" if len(random) else ""
    said = [
        f"Without its {plural(n, 'most frequent neuron')}, **{after:.0%}** of its prompts are answered "
        f"right (before {before:.0%}{beside})."
    ]
    loss = 1 - after / before if before > 0 else 0.0
    most = int(own.index.max())
    if before > 0 and loss < LITTLE:
        said.append(f"**That is next to no loss**; without {most:,} it is {own['accuracy_after'][most]:.0%}.")
    others = elsewhere[(elsewhere["group"] == "own") & ~elsewhere["itself"]]
    if len(others):
        others_before, others_after = others["accuracy_before"].mean(), others["accuracy_after"].mean()
        said.append(f"Of other relations' prompts **{others_after:.0%}** (before {others_before:.0%}).")
        others_loss = 1 - others_after / others_before if others_before > 0 else 0.0
        if loss >= LITTLE and others_loss >= MUCH * loss:
            said.append(f"**They lose much, too:** {others_loss:.0%} of what was right, it {loss:.0%}.")
    return " ".join(said)


# Edit ------------------------------------------------------------------------------------------------


def edits(atlas: Atlas, relation_id: str) -> Tables:
    """How often edits of its facts did what they should, and left others alone."""
    rates = ask(evidence.edit_rates, atlas, relation=relation_id)
    if rates.empty:
        layout.nothing(evidence_show.absent(atlas, "edits", "Giving its facts other answers"))
        return {}
    strengths = {
        f"{add:g}": f"λ₁ = {remove:g}, λ₂ = {add:g}"
        for remove, add in dict.fromkeys(zip(rates["remove"], rates["add"], strict=True))
    }
    left, right = st.columns([3, 2], gap="medium")
    with right:
        chosen = evidence_show.chosen_view("Strengths", "strength", strengths)
        shown = rates[[f"{add:g}" == chosen for add in rates["add"]]]
        st.markdown(what_edits_do(shown))
        evidence_show.note(
            "Edits of facts that the model answers right: the value vectors of the fact's neurons lose λ₁ of "
            "the old answer's direction and gain λ₂ of another object's of the relation. Once without the "
            "common neurons, which more than a tenth of the relation's facts have, and once with them; "
            "beside them as many random ones of the same layers. In brackets the number of prompts."
        )
    with left:
        layout.draw_chart(
            evidence_charts.edit_bars(shown), "How often edits did what they should, beside random neurons"
        )
    return {"edits": rates}


def what_edits_do(rates: pd.DataFrame) -> str:
    """Success, paraphrases and what is kept, in a sentence. `rates`: of one pair of strengths."""
    share = rates.set_index(["measure", "group"])["share"]
    if ("success", "own") not in share.index:
        return ""
    n = int(rates["n_edits"].max())
    success = share["success", "own"]
    said = f"Of {plural(n, 'edit')}, **{success:.0%}** make the model say the new answer first"
    if ("success", "random") in share.index:
        random = share["success", "random"]
        said += f" (of random neurons {random:.0%})"
        if random > 0 and random >= MUCH * success:
            said += (
                ": **random ones do as much**" if random >= success else ": **random ones do much of that**"
            )
    said += "."
    if ("paraphrase", "own") in share.index:
        said += f" Of the fact's other wordings {share['paraphrase', 'own']:.0%} follow."
    kept = {
        "same_object": "with the same answer",
        "same_relation": "of the relation",
        "other_relation": "of other relations",
    }
    stay = {where: share[name, "own"] for name, where in kept.items() if (name, "own") in share.index}
    if stay:
        *first, last = [f"{part:.0%} of the prompts {where}" for where, part in stay.items()]
        parts = f"{', '.join(first)} and {last}" if first else last
        lost = ": **other facts are lost, too**" if min(stay.values()) < MUCH else ""
        said += f" Right answers about other facts stay on {parts}{lost}."
    return said
