"""Fact: what the model says and writes, how the answer arises, its neurons, and the facts that share them.

`?fact=` names it; `lens` is the prompt that is followed layer by layer; `t`, `p` and `n` are other
thresholds, `neuron` one of its neurons, `view` and `template` what the chart shows, `asked` which prompts its
effects are of, `sharing` which facts are listed, `evidence` which experiment.

1. *Choose.* The fact; the thresholds; a neuron, by a click in the chart.
2. *Query.* Everything is in the atlas: other thresholds are a query over stored scores.
3. *Draw.* Prompts, layers, texts, neurons, scores, effects, facts that share neurons, what experiments found.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.fact import evidence, live, tables, writing
from app.shared import address, exports, layout, links, thresholds, tray
from app.shared import evidence as sentences
from app.shared.thresholds import REMOVED
from app.shared.words import (
    NOT_MEASURED,
    escape,
    fact_label,
    fact_name,
    is_missing,
    joined,
    neurons_of,
    plural,
    promotes,
    with_blank,
)
from atlas import queries
from atlas.charts import effects as effect_charts
from atlas.charts import neurons as neuron_charts
from atlas.neuron import MARKS, Neuron
from atlas.queries.evidence import TOP_GROUPS
from atlas.refinement import Refinement
from atlas.store.atlas import Atlas

SHARING_SHOWN = 50
EFFECT_TITLES = {
    "suppress": "Switched off",
    "mean": "Set to their mean",
    "amplify": "Turned up (×2)",
}
MARKS_EXPLAINED = {
    "contested": "Several answers are defensible.",
    "guessable": "The subject suggests the answer.",
}
NO_FACT = "no fact of the atlas has it"


def main() -> None:
    atlas = layout.current_atlas()
    fact_id = st.query_params.get("fact")
    if fact_id:
        show_fact(atlas, fact_id)
    else:
        choose_a_fact(atlas)


def choose_a_fact(atlas: Atlas) -> None:
    st.title("Fact", anchor=False)
    if text := layout.search_form("A subject, an answer, a relation or a word of a prompt", "France"):
        st.switch_page(links.SEARCH, query_params=links.here(q=text))
    rows = queries.example_facts(atlas).to_dict("records")
    layout.examples((links.FACT, fact_label(row), {"fact": row["fact_id"]}) for row in rows)


def show_fact(atlas: Atlas, fact_id: str) -> None:
    fact = queries.fact(atlas, fact_id)
    prompts = queries.prompts_of_fact(atlas, fact_id)
    stored = queries.neurons_of_fact(atlas, fact_id)
    effects = queries.effects_of_fact(atlas, fact_id)
    exported = {"prompts": prompts, "neurons": stored, "effects": effects}

    actions = fact_heading(fact)
    lacks = layout.say_unmeasured(
        atlas, "prompts", "known", "probabilities", "lens", "scores", "effects", "tokens"
    )
    if lacks & {"probabilities", "scores", "effects"}:
        with layout.errors_as_sentences():
            live.show_measurement(atlas, fact)
    neuron = None
    with layout.errors_as_sentences():
        neuron = known_neuron_in_url(atlas)
    with layout.errors_as_sentences():
        exported["written"] = writing.show_written(atlas, fact)
    if "prompts" not in lacks:
        title = "How it can be asked" if "probabilities" in lacks else "What the model says"
        st.subheader(title, anchor=False)
        with layout.errors_as_sentences():
            tables.show_prompts(prompts)
        if fact["n_prompts"] == 0:
            st.caption("Made from this atlas's templates. Its neurons were found on other sentences.")
    with layout.errors_as_sentences():
        exported["lens"] = writing.show_lens(atlas, fact)
    st.subheader("Its neurons", anchor=False)
    with layout.errors_as_sentences():
        limits, rows = choose_fact_neurons(atlas, fact, stored)
        exported["neurons"] = rows
        show_fact_neurons(rows)
        widths = {"scores": 3, "effects": 2}
        places = layout.columns({part: width for part, width in widths.items() if part not in lacks})
        if "scores" in places:
            with places["scores"], layout.errors_as_sentences():
                exported["scores"] = show_scores(atlas, fact, prompts, limits, rows, neuron)
        if "effects" in places:
            with places["effects"], layout.errors_as_sentences():
                show_fact_effects(fact, effects)
        if neuron is not None:
            with layout.errors_as_sentences():
                show_chosen_neuron(atlas, fact, prompts, limits, rows, neuron)
    if not stored.empty:
        with layout.errors_as_sentences():
            exported["facts_that_share_neurons"] = show_sharing_facts(atlas, fact)
    with layout.errors_as_sentences():
        exported |= evidence.show_fact_experiments(atlas, fact)
    with actions:
        if in_force(rows).empty:
            links.lab_link(fact_id)
        source = fact_name(fact["subject"], fact["object"])
        tray.add_button(neurons_of(in_force(rows)), key="fact", source=source)
        exports.offer(fact_id, **exported)


# Choose ----------------------------------------------------------------------------------------------


def fact_heading(fact: dict):
    """Title and what the fact is; the container for what can be done with it."""
    st.title(escape(fact_name(fact["subject"], fact["object"])), anchor=False)
    with st.container(key="fact-about", horizontal=True, vertical_alignment="center"):
        links.relation_link(fact["relation_id"], f"{fact['label'] or ''} ({fact['relation_id']})".strip())
        layout.known_badge(fact["known"])
        for mark in marks_of(fact):
            st.badge(mark, color="gray", help=f"{MARKS_EXPLAINED[mark]} Experiments leave it out.")
        mean = fact["mean_probability"]
        probability = "" if is_missing(mean) else f"Mean probability {mean:.2f}"
        st.caption(
            joined(probability, plural(fact["n_neurons"], "knowledge neuron")),
            help="The mean is over all of its prompts. Its knowledge neurons are those to which most of the "
            "answer's probability is due, on most of the prompts that were used to find them.",
        )
    if fact["n_neurons"]:
        links.lab_verbs(fact["fact_id"])
    actions = st.container(key="fact-actions", horizontal=True, vertical_alignment="center", gap="small")
    with actions:
        links.compare_link("facts", fact["fact_id"])
    return actions


def marks_of(fact: dict) -> list[str]:
    """The marks that the fact has."""
    return [mark for mark in MARKS if fact[mark]]


def known_neuron_in_url(atlas: Atlas) -> Neuron | None:
    """The neuron the URL names; raises `AtlasError` for one that the model does not have."""
    neuron = address.neuron_in_url()
    if neuron is not None:
        queries.neuron(atlas, neuron.layer, neuron.neuron)
    return neuron


def set_neuron(name: str | None) -> None:
    address.set_in_url(neuron=name)


def choose_fact_neurons(atlas: Atlas, fact: dict, stored: pd.DataFrame) -> tuple[Refinement, pd.DataFrame]:
    """The thresholds and their neurons, with a column `change` if they are not the atlas's."""
    own = thresholds.atlas_thresholds(atlas.manifest, fact["relation_id"])
    if not atlas.measured("attributions") or not atlas.measured("prompts"):
        return own, stored
    moved = not {"t", "p", "n"}.isdisjoint(st.query_params)
    with st.expander("Other thresholds: what would count as one of its neurons?", expanded=moved):
        limits = thresholds.choose_thresholds(atlas.manifest, own)
    if limits == own:
        return limits, stored
    options = {name: getattr(limits, name) for name in ("at_least", "inclusive", "negatives", "seed")}
    found = queries.rethreshold(atlas, fact["fact_id"], limits.threshold, limits.share, **options)
    rows = thresholds.mark_changes(stored, found)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape(thresholds.count_changes(rows))}**")
        st.button(
            f"Back to the atlas's {own.threshold:g} and {own.share:g}",
            on_click=address.set_in_url,
            kwargs={"t": None, "p": None, "n": None},
            icon=":material/undo:",
        )
    return limits, rows


def in_force(rows: pd.DataFrame) -> pd.DataFrame:
    """The neurons at the chosen thresholds."""
    return rows[rows["change"] != REMOVED] if "change" in rows else rows


# Scores ----------------------------------------------------------------------------------------------


def show_scores(
    atlas: Atlas,
    fact: dict,
    prompts: pd.DataFrame,
    limits: Refinement,
    rows: pd.DataFrame,
    neuron: Neuron | None,
) -> pd.DataFrame:
    """The chart of the scores, over the model or by prompt; returns what it draws."""
    view = address.segments("Scores", "view", {"map": "By layer", "prompts": "By prompt"})
    if view == "prompts":
        scores = queries.scores_by_prompt(atlas, fact["fact_id"])
    else:
        template_id = choose_template(prompts)
        scores = queries.attributions_of_fact(atlas, fact["fact_id"], template_id=template_id)
    if scores.empty:
        attributed = atlas.measured("attributions") and prompts["max_score"].notna().any()
        why = "no prompt has a positive score" if attributed else NOT_MEASURED
        layout.nothing(f"Attribution scores: {why}.")
        return scores
    if "change" in rows:
        scores = thresholds.mark_kinds(scores, rows)
    name = None if neuron is None else str(neuron)
    if view == "prompts":
        chart = partial(neuron_charts.score_grid, scores, threshold=limits.threshold, chosen=name)
        alternative = "Attribution scores by prompt and neuron"
    else:
        m = atlas.manifest.model
        chart = partial(
            neuron_charts.score_map, scores, n_layers=m.n_layers, n_neurons=m.n_neurons, chosen=name
        )
        alternative = "Attribution scores by layer and neuron"
    key = f"scores-{fact['fact_id']}-{view}-{name}"
    address.draw_clickable(chart, alternative, key=key, fields=["name"], act=set_neuron)
    st.caption("Click a neuron for its scores.")
    return scores


def choose_template(prompts: pd.DataFrame) -> str | None:
    """One of the prompts that have scores; None for all of them."""
    attributed = prompts[prompts["max_score"].notna()]
    if attributed.empty:
        return None
    options = dict(zip(attributed["template_id"], attributed["text"].map(with_blank), strict=True))
    return address.choice(
        "Scores of", "template", options, placeholder="all prompts (mean)", label_visibility="collapsed"
    )


def show_chosen_neuron(
    atlas: Atlas,
    fact: dict,
    prompts: pd.DataFrame,
    limits: Refinement,
    rows: pd.DataFrame,
    neuron: Neuron,
) -> None:
    """The chosen neuron: its score in each prompt, and whether it is a knowledge neuron of the fact."""
    scores = queries.scores_by_prompt(atlas, fact["fact_id"], only=neuron)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.neuron_link(neuron.layer, neuron.neuron)
            st.caption(escape(about_neuron(queries.neuron(atlas, neuron.layer, neuron.neuron))))
            tray.add_button([neuron], source=fact_name(fact["subject"], fact["object"]))
            st.button("Close", icon=":material/close:", on_click=set_neuron, args=(None,))
        st.markdown(escape(standing(prompts, limits, rows_of(in_force(rows), neuron), scores)))
        if not scores.empty:
            tables.show_prompt_scores(scores, limits.threshold)


def rows_of(rows: pd.DataFrame, neuron: Neuron) -> pd.DataFrame:
    return rows[(rows["layer"] == neuron.layer) & (rows["neuron"] == neuron.neuron)]


def about_neuron(neuron: dict) -> str:
    if not neuron["n_facts"]:
        return NO_FACT
    facts = f"{plural(neuron['n_facts'], 'fact')} of {plural(neuron['n_relations'], 'relation')}"
    return joined(facts, promotes(neuron["promoted"], 6))


def standing(prompts: pd.DataFrame, limits: Refinement, row: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Whether the neuron is in the set, and by how much. `row` is empty where it is not."""
    verdict = f"It is {'not ' if row.empty else ''}a knowledge neuron of this fact"
    n_prompts = int((prompts["max_score"].notna() & ~prompts["held_out"].astype("boolean")).sum())
    if not n_prompts:
        return f"{verdict}."
    return (
        f"{verdict}: its score reaches {limits.threshold:.0%} of the largest in "
        f"{int((scores['relative'] >= limits.threshold).sum())} of {n_prompts} discovery prompts; "
        f"{limits.needed(n_prompts)} are needed."
    )


# Neurons ---------------------------------------------------------------------------------------------


def show_fact_neurons(rows: pd.DataFrame) -> None:
    """Its neurons as a table: those in force and, beside other thresholds than the atlas's, those removed."""
    if in_force(rows).empty:
        layout.nothing(
            "This fact has no knowledge neurons: no neuron reaches the threshold in enough of its prompts."
        )
    if not rows.empty:
        layout.neuron_table(rows, "Its neurons, with their scores and what they push")


# Effects ---------------------------------------------------------------------------------------------


def show_fact_effects(fact: dict, effects: pd.DataFrame) -> None:
    rows = effects[effects["n_neurons"].fillna(1) > 0]
    if rows.empty:
        marks = " and ".join(marks_of(fact))
        why = f"it is {marks}, and experiments leave it out" if marks else NOT_MEASURED
        why = "it has no knowledge neurons" if fact["n_neurons"] == 0 else why
        layout.nothing(f"Effects of changing its neurons: {why}.")
        return
    names = {"held-out": "Held-out prompts", "discovery": "Discovery prompts"}
    options = {name: text for name, text in names.items() if (rows["held_out"] == (name == "held-out")).any()}
    templates = address.segments("Prompts", "asked", options)
    rows = rows[rows["held_out"] == (templates == "held-out")]
    first, *others = [each for each in EFFECT_TITLES if (rows["intervention"] == each).any()]
    draw_effects(rows, first, templates)
    st.caption(sentences.describe_groups(rows))
    with st.expander("Turned up, and prompt by prompt" if others else "Prompt by prompt"):
        if not of_best(rows).empty:
            layout.draw_chart(
                partial(effect_charts.effect_moves, of_best(rows), title="Its best ones switched off"),
                "Probability of the answer before and after, with few of its neurons suppressed",
            )
        for each in others:
            draw_effects(rows, each, templates)
        tables.show_effects_by_prompt(rows)


def draw_effects(rows: pd.DataFrame, intervention: str, templates: str) -> None:
    """What one intervention does to the answer's probability, and to other facts'; beside other neurons."""
    rows = rows[rows["intervention"] == intervention]
    for part, text in sentences.split_groups(rows):
        layout.draw_chart(
            partial(effect_charts.effect_moves, part, title=f"{EFFECT_TITLES[intervention]}{text}"),
            f"Probability of the answer before and after{text}, {templates} prompts: {intervention}",
        )


def of_best(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of suppressing few of the fact's neurons, beside all of them."""
    few = rows[(rows["intervention"] == "suppress") & rows["group"].isin(["own", *TOP_GROUPS])]
    return few if few["group"].nunique() > 1 else few.head(0)


# Facts that share them -------------------------------------------------------------------------------


def show_sharing_facts(atlas: Atlas, fact: dict) -> pd.DataFrame:
    st.subheader("Facts that share its neurons", anchor=False)
    options = {"any": "Any relation", "same": "The same relation", "others": "Other relations"}
    which = address.segments("Facts of", "sharing", options)
    same = {"any": None, "same": True, "others": False}[which]
    others = queries.facts_sharing_neurons(atlas, fact["fact_id"], same_relation=same, limit=SHARING_SHOWN)
    if others.empty:
        layout.nothing(f"No other fact {'' if which == 'any' else 'of these '}has any of its neurons.")
        return others
    cells = [
        links.cell(links.COMPARE, "Compare", kind="facts", a=fact["fact_id"], b=other)
        for other in others["fact_id"]
    ]
    layout.fact_table(others.assign(compare=cells).drop(columns="known"), "The facts that share its neurons")
    return others


main()
