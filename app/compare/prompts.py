"""Two sets of prompts, such as one fact in two languages: the neurons of each, and what they share.

    two_sets(atlas)      # `?model=`, `?pa=` and `?pb=` (prompts, one a line), `?ya=` and `?yb=` (answers)

1. *Choose.* A model and two sets of prompts, each with its answer; the URL holds them all.
2. *Find.* The neurons of each set, prompt by prompt, in line with other visitors of the model.
3. *Compare.* Both lists at the thresholds `?t=` and `?p=`, beside chance; this needs no model.
4. *Suppress.* What suppressing the neurons of each does to the prompts of either (`app.compare.crossing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app.compare import show
from app.compare.crossing import Sets, measure_effects, show_cross_effects
from app.lab import state
from app.lab.choose import choose_model, is_atlas_model
from app.lab.run import Progress, show_progress, show_toast
from app.lab.sentence import explain_tokens
from app.lab.tables import limited_prompts
from app.shared import address, exports, layout, limits, links, thresholds
from app.shared.apart import apart
from app.shared.words import escape, formatted, neurons_of, percentage, with_blank
from atlas.errors import AtlasError
from atlas.models import is_ready
from atlas.queries import comparison
from atlas.refinement import MODES, STORED_FRACTION, KnowledgeNeuron, Refinement
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.run import Found
    from atlas.surgery.subject import Subject

# Characters per side: both fit into a URL that every server takes.
MOST_CHARACTERS = 1500
PARAMETERS = ("model", "pa", "ya", "pb", "yb", "t", "p", "run")
PROMOTED = 8

# Model → title of an example, and its two sets.
EXAMPLES = {
    "pocket-bert": (
        (
            "The capitals of two countries, in the same words",
            "The capital city of France is called [Y].\nThe capital of France is [Y].",
            "Paris",
            "The capital city of Italy is called [Y].\nThe capital of Italy is [Y].",
            "Rome",
        ),
    ),
    "smollm2-135m": (
        (
            "One capital, in English and in French",
            "The capital of France is the city of [Y]\nThe French capital is the city of [Y]\n"
            "The seat of the French government is the city of [Y]",
            "Paris",
            "La capitale de la France est la ville de [Y]\nLa capitale française est la ville de [Y]\n"
            "Le siège du gouvernement français est la ville de [Y]",
            "Paris",
        ),
    ),
}


def two_sets(atlas: Atlas) -> None:
    status = st.container()
    sets, missing = choose_sets(atlas, status)
    rule = thresholds.choose_t_and_p(
        MODES["default"],
        st.columns(2, gap="medium", vertical_alignment="bottom"),
        lowest=STORED_FRACTION,
    )
    found = find_both(sets, missing, rule)
    show_toast()
    if found is None:
        show_examples()
        return
    show_comparison(atlas, sets, found, rule)


# Choose ----------------------------------------------------------------------------------------------


def choose_sets(atlas: Atlas, status: Any) -> tuple[Sets | None, list[str]]:
    """The model and both sets; None while something is missing or wrong, with the error beside its widget.

    Also the labels of what is missing.
    """
    with layout.errors_as_sentences():
        take_over_model(atlas)
    subject = None
    with st.container(width=420), layout.errors_as_sentences():
        subject = choose_model(status)
    address.write({"model": state.model_name()})
    state.put("compared_model", state.model_name())
    typed = {}
    for place, side in zip(st.columns(2, gap="medium"), "ab", strict=True):
        with place, layout.errors_as_sentences():
            typed[side] = type_set(side, subject)
    missing = layout.empty_fields(
        {"Model": subject}
        | {
            f"{what} {side.upper()}": st.query_params.get(name + side)
            for side in "ab"
            for what, name in (("Prompts", "p"), ("Answer", "y"))
        }
    )
    if missing or not (typed.get("a") and typed.get("b")):
        return None, missing or ["prompts that the model can read"]
    with layout.errors_as_sentences():
        if set(typed["a"]) == set(typed["b"]):
            raise AtlasError("A and B have the same prompts. Change one of them.")
        return Sets(subject, typed["a"], typed["b"]), []
    return None, ["another set of prompts"]


def take_over_model(atlas: Atlas) -> None:
    """The model that the URL newly asks for; at first that of the atlas in view."""
    name = address.id_in_url("model")
    if name and name != state.get("compared_model"):
        if not limits.current().offers(name):
            st.query_params.pop("run", None)  # do not run with another model
        limits.current().check_model(name)
        state.put_model(name)
    elif state.get("model") is None and atlas.manifest.model.name in limits.current().models:
        state.put_model(atlas.manifest.model.name)


def type_set(side: str, subject: Subject | None) -> tuple:
    """The prompts typed on one side."""
    allowed = limits.current()
    text = address.text_box(
        f"Prompts {side.upper()}, one per line; [Y] or [MASK] where the answer goes",
        f"p{side}",
        longest=min(MOST_CHARACTERS, allowed.prompts * (allowed.prompt_length + 1)),
        forget=["run"],
        box=st.text_area,
        height=130,
        placeholder="The capital of France is [Y]" if side == "a" else "La capitale de la France est [Y]",
    )
    answer = address.text_box(
        f"Answer {side.upper()}",
        f"y{side}",
        longest=allowed.answer_length,
        forget=["run"],
        placeholder="Paris",
    )
    if subject is None or not (text.strip() or answer.strip()):
        return ()
    prompts = limited_prompts(subject, text, answer)
    explain_tokens(subject, prompts[0])
    return prompts


def show_examples() -> None:
    """Sets worth a look, for the models on this machine."""
    layout.nothing("Type prompts on both sides, with an answer each, to see which neurons they share.")
    st.markdown("**Worth a look**")
    for model, several in EXAMPLES.items():
        if model not in limits.current().models or not is_ready(model):
            continue
        for title, pa, ya, pb, yb in several:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.page_link(
                    links.COMPARE,
                    label=f":blue[{title}]",
                    query_params=links.here(kind="prompts", model=model, pa=pa, ya=ya, pb=pb, yb=yb, run=1),
                )
                st.caption(f"in {escape(model)}")


# Find ------------------------------------------------------------------------------------------------


def find_both(sets: Sets | None, missing: Sequence[str], rule: Refinement) -> tuple[Found, Found] | None:
    """Both sides' attributions, from this session's last search or a new one."""
    pressed = layout.button_with(
        missing,
        "Find their neurons and compare",
        type="primary",
        icon=":material/search:",
        help="Integrated gradients over every neuron, prompt by prompt, each with its numerical error",
    )
    if sets is None:
        return None
    place = st.empty()
    known, found = st.session_state.get("sets_found", (None, None))
    if known == sets.key and not pressed:
        return found
    # A cancelled search does not start again by itself.
    asked = st.query_params.get("run") == "1" and st.session_state.get("sets_begun") != sets.key
    if not pressed and not asked:
        return None
    st.session_state["sets_begun"] = sets.key
    address.write({"run": 1})
    from atlas.experiments.run import find_neurons

    found = None
    # One bar for everything: Streamlit refuses a second button with the same key.
    with layout.errors_as_sentences(), show_progress(place, "Comparing") as progress:
        found = (
            apart(find_neurons, sets.subject, sets.a, progress=part(progress, 0.0, 0.4, "A: ")),
            apart(find_neurons, sets.subject, sets.b, progress=part(progress, 0.4, 0.8, "B: ")),
        )
        st.session_state["sets_found"] = (sets.key, found)
        measure_effects(sets, lists(found, rule), part(progress, 0.8, 1.0))
    return found


def part(progress: Progress, start: float, end: float, before: str = "") -> Progress:
    """The progress of a part; `before` says which."""
    return lambda share, text: progress(start + (end - start) * share, before + text)


def lists(
    found: tuple[Found, Found], rule: Refinement
) -> tuple[tuple[KnowledgeNeuron, ...], tuple[KnowledgeNeuron, ...]]:
    """The neurons of both sides at these thresholds."""
    from atlas.experiments.run import refined_live

    a, b = (refined_live(each.attributions, rule) for each in found)
    return a, b


# Compare ---------------------------------------------------------------------------------------------


def show_comparison(atlas: Atlas, sets: Sets, found: tuple[Found, Found], rule: Refinement) -> None:
    a, b = lists(found, rule)
    subject = sets.subject
    measures = measures_of(found, (a, b))
    show.show_measures(measures, *(with_blank(each.prompts[0].text) for each in found))
    n_paths = sum(each.n_paths for each in found)
    certified = 1 - sum(each.n_unconverged for each in found) / max(n_paths, 1)
    st.caption(
        f"Found in {escape(subject.name)}; {percentage(certified)} of {n_paths:,} integrals within tolerance."
    )
    rows = read_out(subject, found, comparison.neurons_of_lists(a, b))
    show.show_overlap_of_neurons(
        atlas,
        rows,
        measure="score",
        title="Mean score",
        size=(subject.n_layers, subject.n_neurons),
        linked=is_atlas_model(atlas, subject),
        beside=" Two facts in the same words may share more neurons than one fact in two wordings.",
    )
    effects = show_cross_effects(sets, (a, b))
    tables = {"measures": measures, "prompts": prompt_rows(found), "neurons": show.with_tokens(rows)}
    exports.offer("two-sets", **tables, **({} if effects is None else {"effects": effects}))


def measures_of(found: tuple[Found, Found], neurons: tuple) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    predictions = [[each.prediction for each in one.attributions] for one in found]
    return show.measure_rows(
        {
            "Answer": [one.prompts[0].answer for one in found],
            "Prompts": [formatted(len(one.prompts)) for one in found],
            "Answer's probability (mean)": [
                formatted(sum(p.probability for p in several) / len(several), ".3f")
                for several in predictions
            ],
            "Prompts with the answer first": [
                str(sum(p.rank == 1 for p in several)) for several in predictions
            ],
            "Knowledge neurons": [formatted(len(each)) for each in neurons],
        }
    )


def read_out(subject: Subject, found: tuple[Found, Found], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the tokens that each neuron pushes on the prompts of both sides."""
    from atlas.surgery.readout import mean_activations, readout

    neurons = neurons_of(rows)
    fires = mean_activations(subject, [*found[0].prompts, *found[1].prompts], neurons)
    promoted = [
        [{"token": token, "logit": logit} for token, logit in each.at(activation).promoted]
        for each, activation in zip(readout(subject, neurons, k=PROMOTED), fires, strict=True)
    ]
    return rows.assign(promoted=promoted)


def prompt_rows(found: tuple[Found, Found]) -> pd.DataFrame:
    """A row a prompt. Columns: set, text, answer, probability, rank, says, max_gap, converged."""
    return pd.DataFrame(
        {
            "set": side,
            "text": each.prompt.text,
            "answer": each.prompt.answer,
            "probability": each.prediction.probability,
            "rank": each.prediction.rank,
            "says": each.prediction.top_token,
            "max_gap": each.max_gap,
            "converged": bool(each.converged.all()),
        }
        for side, one in zip("AB", found, strict=True)
        for each in one.attributions
    )
