"""The Lab's first two choices: a model, and the question it is asked.

    subject = choose_model(status)                       # None while it has to be fetched
    question = choose_question(atlas, subject)           # None while there is nothing to ask
    prompts = all_prompts(atlas, subject, question)        # with the controls' prompts

Wrong input raises `AtlasError` and stays in its widget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import state
from app.lab.state import FACT, OTHER_MODEL, PROMPTS, Question, option, setting
from app.lab.tables import limited_prompts
from app.shared import layout, limits, resources
from app.shared.words import escape, fact_label, fact_name, plural, shown_token, with_blank
from atlas import queries
from atlas.errors import AtlasError, ModelError
from atlas.experiments.controls import control_prompts, experiment_prompts
from atlas.experiments.experiment import Experiment
from atlas.models import HUB_MB, KNOWN_MODELS, locate, may_be_on_hub, same_model
from atlas.models.families import FAMILIES
from atlas.neuron import ExperimentPrompt, Prompt
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

FACTS_LISTED = 200
CONTROLS_EXPLAINED = {
    "draws": ("Random draws", "Draws of as many random neurons of the same layers"),
    "seed": ("Seed", "Seed of the random neurons and of the other facts"),
    "neighbours": ("Same relation", "Facts of the same relation with other answers"),
    "unrelated": ("Unrelated facts", "Facts that differ in relation and answer"),
}


# The model -------------------------------------------------------------------------------------------


def choose_model(status: Any) -> Subject | None:
    """The chosen subject model, loaded; None while it has to be named or fetched.

    `status` is a container that is always visible: it shows the loading.
    """
    st.markdown("##### Model")
    allowed = limits.current()
    names = list(allowed.models) if allowed.demo_mode else [*allowed.models, OTHER_MODEL]
    chosen = st.selectbox(
        "Model",
        names,
        **option("model", names, names[0]),
        label_visibility="collapsed",
    )
    if chosen == OTHER_MODEL:
        st.text_input(
            "Folder or hub id",
            **setting("folder", ""),
            max_chars=300,
            placeholder="~/models/my-bert or bert-base-uncased",
        )
    name = state.model_name()
    if not name:
        st.caption(f"Safetensors weights of one of these types: {', '.join(FAMILIES)}.")
        return None
    allowed.check_model(name)
    if name in KNOWN_MODELS:
        st.caption(escape(KNOWN_MODELS[name].description))
    try:
        locate(name, allow_download=False)
    except ModelError as missing:
        offer_to_fetch(name, missing)
        return None
    return load_model(name, status)


def offer_to_fetch(name: str, missing: ModelError) -> None:
    """A button that fetches the model, where visitors may have it fetched."""
    if not may_be_on_hub(name):
        raise missing
    limits.current().check_download(name)
    known = KNOWN_MODELS.get(name)
    size = f" from the hub ({HUB_MB[name]} MB)" if name in HUB_MB else " from the hub"
    size = f" ({known.download_mb} MB, {known.disk_mb} MB on disk)" if known else size
    if known is None:
        st.info(escape(missing))
    if st.button(f"Fetch {escape(name)}{size}", type="primary", icon=":material/download:"):
        resources.fetch(name)


def load_model(name: str, status: Any) -> Subject:
    with status, st.spinner("Loading the model …"):
        subject = resources.subject(name)
    st.caption(
        escape(
            f"{subject.n_layers} layers of {subject.n_neurons:,} neurons · {subject.family.kind} · "
            f"weights {subject.weights_sha256[:12]}"
        )
    )
    return subject


def is_atlas_model(atlas: Atlas, subject: Subject) -> bool:
    """Whether the atlas was made from the same model."""
    return same_model(subject, atlas.manifest.model)


# The question ----------------------------------------------------------------------------------------


def choose_question(atlas: Atlas, subject: Subject | None) -> Question | None:
    st.markdown("##### Question")
    source = st.segmented_control(
        "Ask about",
        [FACT, PROMPTS],
        required=True,
        **setting("ask", FACT),
        label_visibility="collapsed",
    )
    return typed_question(subject) if source == PROMPTS else fact_question(atlas, subject)


def fact_question(atlas: Atlas, subject: Subject | None) -> Question | None:
    """A fact of the atlas, with the prompts that the model can take."""
    fact = choose_fact(atlas)
    if fact is None:
        return None
    prompts = experiment_prompts(atlas, fact["fact_id"])
    if subject is not None:
        prompts = usable_prompts(subject, prompts)
    name = fact_name(fact["subject"], fact["object"])
    return Question(fact["fact_id"], fact["relation_id"], name, fact["object"], prompts)


def choose_fact(atlas: Atlas) -> dict[str, Any] | None:
    chosen = state.get("fact")
    try:
        fact = queries.fact(atlas, chosen) if chosen else None
    except AtlasError:
        state.put("fact", None)
        raise
    search, choose = st.columns([1, 2], vertical_alignment="bottom")
    text = search.text_input(
        "Search the facts",
        **setting("search", ""),
        max_chars=limits.current().search_length,
        placeholder="France, capital …",
    )
    hits = queries.facts_matching(atlas, text, limit=FACTS_LISTED)
    names = {chosen: fact_label(fact)} if fact else {}
    names |= {row.fact_id: fact_label(row._asdict()) for row in hits.rows.itertuples()}
    listed = f", the first {FACTS_LISTED} listed" if hits.total > FACTS_LISTED else ""
    choose.selectbox(
        f"Fact ({hits.total:,} match{listed})",
        list(names),
        index=None,
        format_func=lambda fact_id: names.get(fact_id, fact_id),
        **setting("fact", None),
        on_change=_fact_chosen,
        placeholder="Choose a fact",
    )
    return fact


def usable_prompts(subject: Subject, prompts: tuple[ExperimentPrompt, ...]) -> tuple[ExperimentPrompt, ...]:
    """The prompts that the model can take; raises `AtlasError` where that is no discovery prompt."""
    from atlas.experiments.run import usable

    prompts, reasons = usable(subject, prompts)
    n_discovery = sum(item.group == "asked" for item in prompts)
    if not n_discovery:
        why = reasons[0] if reasons else "It has no discovery prompts."
        raise AtlasError(f"{subject.name} can take none of this fact's prompts. {why} Choose another fact.")
    if reasons:
        st.caption(escape(f"{plural(len(reasons), 'prompt')} left out: {reasons[0]}"))
    st.caption(
        f"{plural(n_discovery, 'discovery prompt')}, "
        f"{plural(len(prompts) - n_discovery, 'held-out paraphrase')}, such as: "
        f"{escape(with_blank(prompts[-1].prompt.text))}"
    )
    return prompts


def _fact_chosen() -> None:
    state.put("pinned", None)
    state.put("off", set())


def random_fact_button(atlas: Atlas) -> None:
    """A button that asks about a random fact, one that the model knows if there is one."""
    st.button(
        "Take a random fact", icon=":material/casino:", on_click=_take_random, args=(atlas,), type="primary"
    )


def _take_random(atlas: Atlas) -> None:
    fact_id = queries.random_fact(atlas, known=True) or queries.random_fact(atlas)
    if fact_id:
        state.ask_about(atlas, fact_id)


def typed_question(subject: Subject | None) -> Question | None:
    allowed = limits.current()
    text = st.text_area(
        "Prompts, one per line; [Y] or [MASK] where the answer goes",
        **setting("prompts", ""),
        max_chars=allowed.prompts * (allowed.prompt_length + 1),
        height=110,
        placeholder="The capital of France is [Y].\nFrance's seat of government is in [Y].",
    )
    answer = st.text_input(
        "Answer",
        **setting("answer", ""),
        max_chars=allowed.answer_length,
        placeholder="Paris",
    )
    if subject is None or not (text.strip() or answer.strip()):
        return None
    prompts = limited_prompts(subject, text, answer)
    explain_tokens(subject, prompts[0])
    asked = tuple(ExperimentPrompt("asked", prompt) for prompt in prompts)
    return Question(None, None, answer.strip(), answer.strip(), asked)


def explain_tokens(subject: Subject, prompt: Prompt) -> None:
    """How an answer of several tokens is scored; nothing for one of a single token."""
    targets = subject.encode(prompt).targets
    if len(targets) > 1:
        tokens = " · ".join(shown_token(subject.token_text(token)) for token in targets)
        how = "one mask each" if subject.family.kind == "masked" else "each after those before it"
        st.caption(
            escape(f"The answer has {len(targets)} tokens, {how}: {tokens}. ")
            + "Its probability is their product, its scores are their mean."
        )


def missing_before(subject: Subject | None, question: Question | None) -> list[str]:
    """What is missing before neurons can be chosen, by the labels of its fields."""
    if subject is None:
        return ["Model"]
    if question is not None:
        return ["a valid set-up"]
    if state.get("ask") != PROMPTS:
        return ["a fact that the model can be asked" if state.get("fact") else "Fact"]
    empty = layout.empty_fields({"Prompts": state.get("prompts"), "Answer": state.get("answer")})
    return empty or ["prompts that the model can read"]


# The controls ----------------------------------------------------------------------------------------


def choose_controls() -> None:
    """The numbers of random draws and of other facts."""
    for names in (("draws", "seed"), state.NEAR_AND_FAR):
        for name, place in zip(names, st.columns(2), strict=True):
            label, explained = CONTROLS_EXPLAINED[name]
            place.number_input(
                label,
                *state.control_range(name),
                **setting(name, state.CONTROL_DEFAULTS[name]),
                help=explained,
            )


def all_prompts(atlas: Atlas, subject: Subject, question: Question) -> tuple[ExperimentPrompt, ...]:
    """The question's prompts and those of other facts that this model can take."""
    from atlas.experiments.run import usable

    names = (*state.NEAR_AND_FAR, "seed")
    controls = resources.ask(
        control_prompts,
        atlas,
        fact_id=question.fact_id,
        answers=(question.answer,),
        causal=subject.family.kind == "causal",
        **{name: state.get(name, state.CONTROL_DEFAULTS[name]) for name in names},
    )
    return (*question.prompts, *usable(subject, controls)[0])


def describe_controls(atlas: Atlas, subject: Subject | None, experiment: Experiment) -> str:
    """What there is to know about the prompts of other facts: that they are few, or may not be known."""
    parts = []
    for name, others in (("neighbours", "of the same relation"), ("unrelated", "on unrelated facts")):
        n, wanted = sum(item.group == name for item in experiment.prompts), state.get(name, 0)
        if n < wanted and (experiment.fact_id or name == "unrelated"):
            parts.append(f"Only {n} of {plural(wanted, 'prompt')} {others}: no more are answered right.")
    if subject is not None and not (is_atlas_model(atlas, subject) and resources.ask(has_ranks, atlas)):
        parts.append(f"The atlas does not say which prompts {escape(subject.name)} answers right.")
    return " ".join(parts)


def has_ranks(atlas: Atlas) -> bool:
    """Whether the atlas says which prompts its model answers right."""
    return atlas.query_one("SELECT rank FROM prompts WHERE rank IS NOT NULL LIMIT 1") is not None
