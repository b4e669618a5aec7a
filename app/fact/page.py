"""Fact: what the model says, where its neurons lie, what they do, and the facts that share them.

`?fact=` names it; `t` and `p` are other thresholds, `neuron` one of its neurons, `view` and `template` what
the chart shows, `asked` which prompts its effects are of, `sharing` which facts are listed, `evidence` which
experiment.

1. *Choose.* The fact; the thresholds; a neuron, by a click in the chart or in the table.
2. *Query.* Everything is in the atlas: other thresholds are a query over stored scores.
3. *Draw.* Prompts, chart, neurons, effects, facts that share neurons, what experiments found.
"""

import pandas as pd
import streamlit as st

from app.fact import evidence as fact_evidence
from app.fact import tables as fact_tables
from app.shared import address, exports, layout, links, thresholds, tray
from app.shared import evidence as evidence_show
from app.shared.thresholds import ADDED, REMOVED, Thresholds
from app.shared.words import (
    NOT_MEASURED,
    escape,
    fact_name,
    formatted,
    is_missing,
    percentage,
    plural,
    token_list,
)
from atlas import queries
from atlas.charts import look as charts
from atlas.charts import neurons as neuron_charts
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

NEURONS_SHOWN = 8
SHARING_SHOWN = 10
CARD_WIDTH = 165
LONGEST_NAME = 20
ASKED = {
    "held-out": "On prompts that were held out (mean)",
    "discovery": "On prompts that found its neurons (mean)",
}
FEW_GROUPS_SAID = (
    "×0 suppresses, ×2 amplifies: the neurons that the atlas found, as many random ones of the same "
    "layers, and its own while unrelated facts are asked."
)
VIEWS = {"map": "On the model's plan", "prompts": "Prompt by prompt"}
SHARING = {"any": "Any", "same": "The same relation", "others": "Other relations"}
SAME_RELATION = {"any": None, "same": True, "others": False}


def main() -> None:
    atlas = layout.current_atlas()
    fact_id = st.query_params.get("fact")
    if not fact_id:
        layout.choose_a_fact()
        return
    fact = queries.fact(atlas, fact_id)
    prompts = queries.prompts_of_fact(atlas, fact_id)
    stored = queries.neurons_of_fact(atlas, fact_id)
    effects = queries.effects_of_fact(atlas, fact_id)
    tables = {"prompts": prompts, "neurons": stored, "effects": effects}

    actions = heading(fact)
    neuron = None
    with layout.errors_as_sentences():
        neuron = chosen(atlas)
    with layout.errors_as_sentences():
        st.subheader("What the model says", anchor=False)
        fact_tables.what_it_says(prompts)
    st.subheader("Its neurons", anchor=False)
    with layout.errors_as_sentences():
        limits, rows = choose_thresholds(atlas, fact, stored)
        tables["neurons"] = rows
        left, right = st.columns([3, 2], gap="medium")
        with left, layout.errors_as_sentences():
            tables["scores"] = where(atlas, fact, prompts, limits, rows, neuron)
        with right, layout.errors_as_sentences():
            what_they_do(fact, effects)
        if neuron is not None:
            with layout.errors_as_sentences():
                chosen_neuron(atlas, fact, prompts, limits, rows, neuron)
        neurons(rows, limits, neuron)
    if not stored.empty:
        with layout.errors_as_sentences():
            tables["facts_that_share_neurons"] = sharing(atlas, fact)
    with layout.errors_as_sentences():
        tables |= fact_evidence.show(atlas, fact)
    with actions:
        in_force = rows if "change" not in rows else rows[rows["change"] != REMOVED]
        offers(fact, in_force, tables)


# Choose ----------------------------------------------------------------------------------------------


def choose_thresholds(atlas: Atlas, fact: dict, stored: pd.DataFrame) -> tuple[Thresholds, pd.DataFrame]:
    """The thresholds in force and their neurons, with a column `change` if they are not the atlas's."""
    if not atlas.measured("attributions") or not atlas.measured("prompts"):
        return thresholds.own(atlas.manifest), stored
    limits = thresholds.choose(atlas.manifest)
    if not limits.moved:
        st.caption(
            f"{plural(len(stored), 'neuron')} with the thresholds of the atlas. "
            "Move a slider to see which would come and go."
        )
        return limits, stored
    found = queries.rethreshold(
        atlas,
        fact["fact_id"],
        limits.t,
        limits.p,
        at_least=limits.at_least,
        negatives=limits.n,
        seed=limits.seed,
    )
    rows = thresholds.compared(stored, found)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape(thresholds.summary(rows))}**")
        st.button(
            f"Back to the atlas's {limits.own_t:g} and {limits.own_p:g}",
            on_click=address.set_in_url,
            kwargs={"t": None, "p": None, "n": None},
            icon=":material/undo:",
        )
    return limits, rows


def chosen(atlas: Atlas) -> Neuron | None:
    """The neuron the URL names; raises `AtlasError` for one that the model does not have."""
    name = st.query_params.get("neuron", "")[:LONGEST_NAME]
    if not name:
        return None
    neuron = Neuron.parse(name)
    queries.neuron(atlas, neuron.layer, neuron.neuron)
    return neuron


def choose(name: str) -> None:
    address.set_in_url(neuron=name)


# Heading ---------------------------------------------------------------------------------------------


def heading(fact: dict):
    """Title and what the fact is; the container for what can be done with it."""
    st.title(escape(fact_name(fact["subject"], fact["object"])), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        links.relation_link(fact["relation_id"], f"{fact['label'] or ''} ({fact['relation_id']})".strip())
        layout.known_badge(fact["known"])
        st.caption(
            f"Mean probability {formatted(fact['mean_probability'], '.2f')} · "
            f"{plural(fact['n_neurons'], 'knowledge neuron')}"
        )
    return st.container(horizontal=True, vertical_alignment="center", gap="small")


def offers(fact: dict, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> None:
    links.lab_link(fact["fact_id"])
    links.compare_link("facts", fact["fact_id"])
    tray.add_button(
        [Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples()],
        key="fact",
        source=fact_name(fact["subject"], fact["object"]),
    )
    exports.offer(fact["fact_id"], **tables)


# Where its neurons lie -------------------------------------------------------------------------------


def where(
    atlas: Atlas,
    fact: dict,
    prompts: pd.DataFrame,
    limits: Thresholds,
    rows: pd.DataFrame,
    neuron: Neuron | None,
) -> pd.DataFrame:
    """The chart of the scores, over the model or by prompt; gives what it draws."""
    view = address.one_of("Scores", "view", VIEWS, label_visibility="collapsed")
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
        scores = thresholds.with_kinds(scores, rows)
    name = None if neuron is None else str(neuron)
    model = atlas.manifest.model
    if view == "prompts":
        chart = neuron_charts.score_grid(scores, threshold=limits.t, chosen=name)
        alternative = "Attribution scores by prompt and neuron"
    else:
        chart = neuron_charts.score_map(
            scores, n_layers=model.n_layers, n_neurons=model.n_neurons, chosen=name
        )
        alternative = "Attribution scores by layer and neuron"
    key = f"scores-{fact['fact_id']}-{view}-{name}"
    address.draw_clickable(chart, alternative, key=key, fields=["name"], act=choose)
    st.caption("Click a neuron for its scores.")
    return scores


def choose_template(prompts: pd.DataFrame) -> str | None:
    """One of the prompts that have scores; None for all of them."""
    attributed = prompts[prompts["max_score"].notna()]
    if attributed.empty:
        return None
    texts = attributed["text"].str.replace("[Y]", fact_tables.BLANK, regex=False)
    options = dict(zip(attributed["template_id"], texts, strict=True))
    return address.choice(
        "Scores of", "template", options, placeholder="all prompts (mean)", label_visibility="collapsed"
    )


def chosen_neuron(
    atlas: Atlas,
    fact: dict,
    prompts: pd.DataFrame,
    limits: Thresholds,
    rows: pd.DataFrame,
    neuron: Neuron,
) -> None:
    """The neuron that was clicked: its score in each prompt, and why it is in the set or not."""
    about = queries.neuron(atlas, neuron.layer, neuron.neuron)
    scores = queries.scores_by_prompt(atlas, fact["fact_id"], only=neuron)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.neuron_link(neuron.layer, neuron.neuron)
            st.caption(escape(promise(about)))
            tray.add_button([neuron], source=fact_name(fact["subject"], fact["object"]))
            st.button(
                "Close",
                icon=":material/close:",
                on_click=address.set_in_url,
                kwargs={"neuron": None},
            )
        mine = rows[(rows["layer"] == neuron.layer) & (rows["neuron"] == neuron.neuron)]
        st.markdown(escape(standing(prompts, limits, mine, scores)))
        if not scores.empty:
            fact_tables.prompt_scores(scores, limits.t)


def promise(about: dict) -> str:
    if not about["n_facts"]:
        return "no fact of the atlas has it"
    promoted = token_list(about["promoted"], 6)
    facts = f"{plural(about['n_facts'], 'fact')} of {plural(about['n_relations'], 'relation')}"
    return f"{facts} · promotes {promoted}"


def standing(prompts: pd.DataFrame, limits: Thresholds, mine: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Whether the neuron is in the set, and by how much, in a sentence. `mine` is its row, if it has one."""
    inside = len(mine) > 0 and ("change" not in mine or mine["change"].iloc[0] != REMOVED)
    verdict = "It is a knowledge neuron of this fact" if inside else "It is no knowledge neuron of this fact"
    n_prompts = int((prompts["max_score"].notna() & ~prompts["held_out"].astype("boolean")).sum())
    if not n_prompts:
        return f"{verdict}. Scores: {NOT_MEASURED}."
    counts = int((scores["relative"] >= limits.t).sum())
    return (
        f"{verdict}: its score reaches {limits.t:.0%} of the largest in {counts} of {n_prompts} prompts; "
        f"{limits.needed(n_prompts)} are needed."
    )


# Neurons ---------------------------------------------------------------------------------------------


def neurons(rows: pd.DataFrame, limits: Thresholds, neuron: Neuron | None) -> None:
    """The neurons in force as cards, all of them as a table; of a chosen one, its row."""
    in_force = rows if "change" not in rows else rows[rows["change"] != REMOVED]
    if in_force.empty:
        layout.nothing(
            "This fact has no knowledge neurons: no neuron scored high enough on enough of its prompts."
        )
    else:
        neuron_cards(in_force)
    if rows.empty:
        return
    shown = rows
    if neuron is not None:
        shown = rows[(rows["layer"] == neuron.layer) & (rows["neuron"] == neuron.neuron)]
    if shown.empty:
        # It was clicked in the chart and is in too few prompts: what there is to see stands above.
        shown, neuron = rows, None
    label = f"All {len(rows)} neurons as a table" if len(rows) > 1 else "As a table"
    with st.expander(label, expanded=neuron is not None or limits.moved):
        if neuron is not None:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.caption(f"Only {escape(neuron)}, of {len(rows)}.")
                st.button("Show all", on_click=address.set_in_url, kwargs={"neuron": None})
        layout.neuron_table(shown, key=f"neurons-{st.query_params['fact']}-{neuron}", act=choose)
        if neuron is None:
            st.caption("Choose a row for the neuron's scores.")


def neuron_cards(rows: pd.DataFrame) -> None:
    with st.container(horizontal=True, gap="small"):
        for row in rows.head(NEURONS_SHOWN).itertuples(index=False):
            with st.container(border=True, width=CARD_WIDTH, height="stretch", gap=None):
                with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                    links.neuron_link(row.layer, row.neuron)
                    if getattr(row, "change", None) == ADDED:
                        st.badge("added", color="green")
                st.caption(scored(row))
                st.caption(in_how_many(row))
                promoted = token_list(row.promoted, 5)
                st.caption(escape(f"promotes {promoted}"))
    if len(rows) > NEURONS_SHOWN:
        st.caption(f"and {len(rows) - NEURONS_SHOWN} more in the table below")


def scored(row) -> str:
    if is_missing(row.mean_score):
        return f"score {NOT_MEASURED}"
    return f"score {row.mean_score:.3f}, {percentage(row.share)} of prompts"


def in_how_many(row) -> str:
    # A neuron that other thresholds add may be nobody's so far.
    if is_missing(row.n_facts):
        return "no fact of the atlas has it"
    return f"{plural(row.n_facts, 'fact')}, {plural(row.n_relations, 'relation')}"


# What they do ----------------------------------------------------------------------------------------


def what_they_do(fact: dict, effects: pd.DataFrame) -> None:
    rows = effects[effects["n_neurons"].fillna(1) > 0]
    if rows.empty:
        why = "it has no knowledge neurons" if fact["n_neurons"] == 0 else NOT_MEASURED
        layout.nothing(f"Effects of changing its neurons: {why}.")
        return
    which = choose_asked(rows)
    rows = rows[rows["held_out"] == (which == "held-out")]
    layout.draw_chart(
        charts.effect_moves(rows, title=ASKED[which]),
        "Probability of the answer before and after, beside the controls",
    )
    controls = evidence_show.groups_said() if "matched" in set(effects["group"]) else FEW_GROUPS_SAID
    st.caption(controls)
    with st.expander("Prompt by prompt"):
        fact_tables.effects(rows)


def choose_asked(effects: pd.DataFrame) -> str:
    """Prompts that were held out, or those that found the neurons, where both were asked."""
    if effects["held_out"].all():
        return "held-out"
    asked = {"held-out": "Held-out prompts", "discovery": "Discovery prompts"}
    return address.one_of("Prompts", "asked", asked, label_visibility="collapsed")


# Facts that share them -------------------------------------------------------------------------------


def sharing(atlas: Atlas, fact: dict) -> pd.DataFrame:
    st.subheader("Facts that share its neurons", anchor=False)
    which = address.one_of("Facts of", "sharing", SHARING, label_visibility="collapsed")
    others = queries.facts_sharing_neurons(
        atlas, fact["fact_id"], same_relation=SAME_RELATION[which], limit=SHARING_SHOWN
    )
    if others.empty:
        layout.nothing("No other fact has any of its neurons." if which == "any" else "No such fact does.")
        return others
    for row in others.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            links.fact_link(row.fact_id, fact_name(row.subject, row.object))
            links.compare_link("facts", fact["fact_id"], row.fact_id)
            st.caption(escape(shared_note(row)))
    return others


def shared_note(row) -> str:
    return (
        f"{plural(row.n_shared, 'neuron')} in common of {formatted(row.n_neurons)}, "
        f"overlap {row.jaccard:.0%} · "
        f"{row.label or row.relation_id}{' (the same relation)' if row.same_relation else ''}"
    )


main()
