"""Fact, measured now: what its atlas lacks, asked of the atlas's model while the visitor waits.

    live.show_measurement(atlas, fact)          # a button, or what it found in this session

Nothing is written into the atlas; what was found is kept for the session.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app.fact import tables
from app.lab import charts
from app.lab.choose import offer_to_fetch
from app.lab.results import show_groups
from app.lab.run import show_progress
from app.lab.tables import summary_rows
from app.shared import exports, layout, limits, resources
from app.shared.apart import apart
from app.shared.words import escape, plural
from atlas.errors import ModelError
from atlas.models import locate
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.measure import Measured

MEASURED = "fact_measured"
KEPT = 10


def show_measurement(atlas: Atlas, fact: dict[str, Any]) -> None:
    """A button that measures the fact, where its model may be used; below it what was found."""
    name = atlas.manifest.model.name
    if not limits.current().offers(name):
        return
    kept = st.session_state.setdefault(MEASURED, {})
    key = (atlas.atlas_id, fact["fact_id"])
    if key not in kept:
        try:
            locate(name, allow_download=False)
        except ModelError as missing:
            with st.expander("Measure now: the model has to be fetched first"):
                offer_to_fetch(name, missing)
            return
        place = st.empty()
        about = (
            f"Asks {escape(name)} itself, on this machine: probabilities, scores with their certificates, "
            "and what suppressing the fact's neurons does. Nothing is written into the atlas."
        )
        if place.button("Measure now", icon=":material/science:", key="fact_measure", help=about):
            kept[key] = measure_now(atlas, fact["fact_id"], place)
            for old in list(kept)[:-KEPT]:
                del kept[old]
            st.rerun()
        return
    st.subheader("Measured now", anchor=False)
    show(fact, kept[key])


def measure_now(atlas: Atlas, fact_id: str, place: Any) -> Measured:
    """Measure the fact with the atlas's model, behind a progress bar in `place`."""
    from atlas.experiments.measure import asked_of, measure

    with show_progress(place, "Measuring") as progress:
        subject = resources.subject(atlas.manifest.model.name)
        asked = asked_of(atlas, fact_id, causal=subject.family.kind == "causal")
        return apart(measure, subject, asked, progress=progress)


# What it found ---------------------------------------------------------------------------------------


def show(fact: dict[str, Any], measured: Measured) -> None:
    """Prompts, whether the atlas's neurons were found again, and the effects beside their controls."""
    prompts, neurons, summary = prompt_rows(measured), neuron_rows(measured), summary_rows(measured.outcome)
    with st.container(horizontal=True, vertical_alignment="center"):
        layout.known_badge(measured.known)
        st.caption(f"Mean probability {measured.mean_probability:.2f} · {measured.outcome.experiment.model}")
    tables.show_prompts(prompts)
    st.markdown(describe_overlap(measured))
    picture, table = st.columns([3, 2], gap="medium")
    with picture:
        layout.draw_chart(
            partial(charts.before_and_after, summary),
            "The answer's probability with the fact's neurons suppressed, beside the controls",
        )
    with table:
        show_groups(summary)
    with st.expander(f"The {plural(len(neurons), 'neuron')} found now"):
        layout.neuron_table(neurons, "The neurons found now")
    exports.offer(f"{fact['fact_id']}-now", prompts=prompts, neurons=neurons, effects=summary)


def describe_overlap(measured: Measured) -> str:
    """Whether today's computation finds the atlas's neurons, with what chance would find."""
    found, stored, shared = len(measured.found.neurons), len(measured.stored), len(measured.shared)
    if not stored:
        return f"**{plural(found, 'neuron')}** found; the atlas has none of this fact."
    return (
        f"**{shared} of the atlas's {plural(stored, 'neuron')}** are among the {found:,} found now. As many "
        f"random neurons of the same layers would hold {measured.chance:.2g} of them."
    )


def prompt_rows(measured: Measured) -> pd.DataFrame:
    """The fact's own prompts, with the columns of the atlas's table `prompts`."""
    certificates = dict(zip(measured.found.prompts, measured.found.attributions, strict=True))
    rows = []
    for each in measured.own:
        attribution = certificates.get(each.prompt)
        row = {
            "text": each.prompt.text,
            "held_out": each.group == "paraphrases",
            "probability": each.before.probability,
            "rank": each.before.rank,
            "top_token": each.before.top[0][0],
            "top_probability": each.before.top[0][1],
            "n_answer_tokens": len(each.before.token_probabilities),
            "max_gap": None,
            "n_points": None,
            "converged": None,
            "max_score": None,
            "n_layers": None,
            "n_unconverged": None,
        }
        if attribution is not None:
            row |= {
                "max_gap": float((attribution.gap / attribution.token_max[:, None]).max()),
                "n_points": int(attribution.n_points.sum()),
                "converged": bool(attribution.converged.all()),
                "max_score": attribution.max_score,
                "n_layers": len(attribution.scores),
                "n_unconverged": int((~attribution.converged).sum()),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def neuron_rows(measured: Measured) -> pd.DataFrame:
    """The neurons found, the largest mean score first, and whether the atlas has them, too."""
    stored = {*measured.stored}
    pushed = (
        says.at(fires) for says, fires in zip(measured.readouts, measured.mean_activations, strict=True)
    )
    rows = [
        {
            "layer": each.neuron.layer,
            "neuron": each.neuron.neuron,
            "share": each.share,
            "mean_score": each.mean_score,
            "in_atlas": each.neuron in stored,
            "value_norm": says.value_norm,
            "promoted": [{"token": token, "logit": logit} for token, logit in says.promoted],
            "suppressed": [{"token": token, "logit": logit} for token, logit in says.suppressed],
        }
        for each, says in zip(measured.found.neurons, pushed, strict=True)
    ]
    columns = ("layer", "neuron", "share", "mean_score", "in_atlas", "value_norm", "promoted", "suppressed")
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values("mean_score", ascending=False, ignore_index=True)
