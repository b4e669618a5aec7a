"""The Lab's first step: a sentence, what the model says in its gap, and further wordings of the question.

    question = choose_sentence(atlas, subject)           # None while there is nothing to ask
    prompts = all_prompts(atlas, subject, question)      # with those of other facts

A sentence of the atlas is recognised and asks about its fact, in all of its wordings. The answer is the
model's own unless the visitor gives another. Wrong input raises `AtlasError` and stays in its widget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import state
from app.lab.choose import is_atlas_model
from app.lab.run import TEXT_TOKENS, show_progress
from app.lab.state import Question, setting
from app.lab.tables import limited_prompts
from app.shared import limits, resources
from app.shared.apart import apart
from app.shared.words import escape, fact_label, fact_name, plural, shown_token, with_blank
from atlas import queries
from atlas.errors import AtlasError
from atlas.experiments.controls import control_prompts, experiment_prompts
from atlas.experiments.experiment import Experiment
from atlas.neuron import ExperimentPrompt, Prompt
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.look import Look
    from atlas.surgery.subject import Subject

FACTS_LISTED = 200
CONTROLS_EXPLAINED = {
    "draws": ("Random draws", "Draws of as many random neurons of the same layers"),
    "seed": ("Seed", "Seed of the random neurons and of the other facts"),
    "neighbours": ("Same relation", "Facts of the same relation with other answers"),
    "unrelated": ("Unrelated facts", "Facts that differ in relation and answer"),
}


# The sentence ----------------------------------------------------------------------------------------


def choose_sentence(atlas: Atlas, subject: Subject | None) -> Question | None:
    """The sentence, what the model says, and what the experiment asks."""
    place = st.container()
    with st.container(horizontal=True, gap="small"):
        with st.popover("Facts of the atlas", icon=":material/lightbulb:"):
            fact = choose_fact(atlas)
        with st.popover("Wordings and answer", icon=":material/edit_note:"):
            further = st.container()
    own = follow_fact(fact, subject, atlas)
    sentence = place.text_input(
        "A sentence; ____ is the place of the answer, the end by default",
        **setting("sentence", ""),
        max_chars=limits.current().prompt_length,
        placeholder="The capital of France is",
        on_change=_sentence_typed,
        args=(atlas,),
    )
    with further:
        type_wordings(fact)
    if not sentence.strip():
        offer_examples(atlas)
        return None
    if subject is None:
        return None
    from atlas.experiments.look import with_gap

    seen = first_look(subject, sentence, fact["object"] if fact else state.get("answer", "").strip())
    answer = seen.answer
    show_likeliest(seen)
    if fact is not None:
        name = fact_name(fact["subject"], fact["object"])
        st.caption(describe_fact(fact, own))
        return Question(fact["fact_id"], fact["relation_id"], name, answer, own)
    # One more than is allowed, so that too many are refused, and a link's thousands are not read.
    lines = list(dict.fromkeys(filter(str.strip, state.texts().splitlines())))[: limits.current().prompts + 1]
    typed = limited_prompts(subject, "\n".join(with_gap(subject, line) for line in lines), answer)
    explain_tokens(subject, typed[0])
    return Question(None, None, answer, answer, tuple(ExperimentPrompt("asked", each) for each in typed))


def follow_fact(
    fact: dict[str, Any] | None, subject: Subject | None, atlas: Atlas
) -> tuple[ExperimentPrompt, ...]:
    """The prompts of a fact that the model can take; the first becomes the sentence when the fact is new."""
    if fact is None:
        state.put("sentence_of", None)
        return ()
    prompts = experiment_prompts(atlas, fact["fact_id"])
    if subject is not None:
        prompts = usable_prompts(subject, prompts)
    told = (fact["fact_id"], subject.name if subject else "")
    if prompts and state.get("sentence_of") != told:
        texts = [shown(item.prompt) for item in prompts]
        if state.get("sentence", "") not in texts:
            state.put("sentence", texts[0])
        state.put("sentence_of", told)
    return prompts


def shown(prompt: Prompt) -> str:
    """A prompt as a visitor would type it: up to its gap where that comes last."""
    return prompt.before.rstrip() if prompt.ends_with_answer else with_blank(prompt.text)


def usable_prompts(subject: Subject, prompts: tuple[ExperimentPrompt, ...]) -> tuple[ExperimentPrompt, ...]:
    """The prompts that the model can take; raises `AtlasError` where that is no discovery prompt."""
    from atlas.experiments.run import usable

    prompts, reasons = usable(subject, prompts)
    if not any(item.group == "asked" for item in prompts):
        why = reasons[0] if reasons else "It has no discovery prompts."
        raise AtlasError(f"{subject.name} can take none of this fact's prompts. {why} Choose another fact.")
    return prompts


def describe_fact(fact: dict[str, Any], prompts: tuple[ExperimentPrompt, ...]) -> str:
    """That the sentence is a fact's, and how it is asked."""
    n_discovery = sum(item.group == "asked" for item in prompts)
    return (
        f"A fact of the atlas: **{escape(fact_label(fact))}**, asked in "
        f"{plural(n_discovery, 'wording')} and {plural(len(prompts) - n_discovery, 'held-out paraphrase')}."
    )


def _sentence_typed(atlas: Atlas) -> None:
    """Recognise a fact of the atlas; any other sentence is the visitor's own."""
    text = state.get("sentence", "")
    fact_id = resources.ask(queries.fact_asked_by, atlas, text)
    state.put("answer", "")
    state.put("pinned", None)
    state.put("off", set())
    if fact_id is None:
        state.put("fact", None)
        return
    state.ask_about(atlas, fact_id)


def type_wordings(fact: dict[str, Any] | None) -> None:
    """Fields for further wordings and another answer; a fact of the atlas has its own."""
    if fact is not None:
        st.caption("The wordings and the answer are the atlas's. Type another sentence to give your own.")
        return
    allowed = limits.current()
    st.text_area(
        "Further wordings, one per line",
        **setting("wordings", ""),
        max_chars=allowed.prompts * (allowed.prompt_length + 1),
        placeholder="France's seat of government is in\nFrance is governed from",
        help="Neurons that several wordings share are less likely to be about the words.",
    )
    st.text_input(
        "Answer, the model's own by default",
        **setting("answer", ""),
        max_chars=allowed.answer_length,
        placeholder="Paris",
    )


# What the model says ---------------------------------------------------------------------------------


def first_look(subject: Subject, sentence: str, answer: str) -> Look:
    """What the model says in the sentence's gap; kept while sentence and answer stay."""
    from atlas.experiments.look import look

    key = (subject.identity, sentence, answer)
    known, seen = state.get("look", (None, None))
    if known != key:
        with show_progress(st.empty(), "Asking") as progress:
            seen = apart(look, subject, sentence, answer, progress=progress)
        state.put("look", (key, seen))
    return seen


def last_look() -> Look | None:
    """The look at the sentence in the box."""
    return state.get("look", (None, None))[1]


def show_likeliest(seen: Look) -> None:
    """The five likeliest tokens, with the answer that is followed in bold."""
    words, answer = [], seen.answer
    for token, probability in seen.top:
        text = escape(shown_token(token))
        own = token.strip().casefold() == answer.casefold()
        words.append(f"{f'**{text}**' if own else text} :gray[{probability:.0%}]")
    st.markdown(f"##### → {' · '.join(words)}")
    if not any(token.strip().casefold() == answer.casefold() for token, _ in seen.top):
        st.caption(f"Followed here: **{escape(answer)}**, which is not among the five likeliest.")


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


# Facts of the atlas ----------------------------------------------------------------------------------


def choose_fact(atlas: Atlas) -> dict[str, Any] | None:
    """A search box and a list of facts; returns the one that is asked about."""
    chosen = state.get("fact")
    try:
        fact = queries.fact(atlas, chosen) if chosen else None
    except AtlasError:
        state.put("fact", None)
        raise
    text = st.text_input(
        "Search the facts",
        **setting("search", ""),
        max_chars=limits.current().search_length,
        placeholder="France, capital …",
    )
    hits = queries.facts_matching(atlas, text, limit=FACTS_LISTED)
    names = {chosen: fact_label(fact)} if fact else {}
    names |= {row.fact_id: fact_label(row._asdict()) for row in hits.rows.itertuples()}
    listed = f", the first {FACTS_LISTED} listed" if hits.total > FACTS_LISTED else ""
    st.selectbox(
        f"Fact ({hits.total:,} match{listed})",
        list(names),
        index=None,
        format_func=lambda fact_id: names.get(fact_id, fact_id),
        **setting("fact", None),
        on_change=_fact_chosen,
        placeholder="Choose a fact",
    )
    return fact


def _fact_chosen() -> None:
    state.put("pinned", None)
    state.put("off", set())


def offer_examples(atlas: Atlas) -> None:
    """Buttons that ask about a fact with a clear effect, and about a random one."""
    telling = resources.ask(queries.telling_fact, atlas)
    with st.container(horizontal=True, gap="small"):
        if telling is not None:
            name = fact_name(telling["subject"], telling["object"])
            st.button(escape(name), on_click=state.ask_about, args=(atlas, telling["fact_id"]))
        st.button(
            "Take a random fact",
            icon=":material/casino:",
            on_click=_take_random,
            args=(atlas,),
            type="primary",
        )


def _take_random(atlas: Atlas) -> None:
    fact_id = queries.random_fact(atlas, known=True) or queries.random_fact(atlas)
    if fact_id:
        state.ask_about(atlas, fact_id)


def missing_before(subject: Subject | None, question: Question | None) -> list[str]:
    """What is missing before neurons can be chosen, by the labels of its fields."""
    if subject is None:
        return ["Model"]
    if question is not None:
        return ["a valid set-up"]
    if state.get("sentence", "").strip():
        return ["a sentence that the model can read"]
    return ["A sentence"]


# The controls ----------------------------------------------------------------------------------------


def choose_controls(subject: Subject) -> None:
    """The numbers of random draws and of other facts, and how much a causal model writes."""
    for names in (("draws", "seed"), state.NEAR_AND_FAR):
        for name, place in zip(names, st.columns(2), strict=True):
            label, explained = CONTROLS_EXPLAINED[name]
            place.number_input(
                label,
                *state.control_range(name),
                **setting(name, state.CONTROL_DEFAULTS[name]),
                help=explained,
            )
    if subject.family.kind == "causal":
        most = limits.current().tokens
        st.number_input(
            "Tokens of each text",
            1,
            most,
            **setting("tokens", min(TEXT_TOKENS, most)),
            help="What the model writes as it was, changed, and with random neurons changed",
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
