"""Neuron: the facts that use it, how selective it is, what it promotes, and the prompts that activate it.

`?neuron=L9.N2141` names it; `relation` and `sort` say which of its facts are listed and how, `related` in
which order the neurons of the same facts come. Without a neuron: a box to name one, and the neurons of most
relations.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, links, tray
from app.shared.resources import ask
from app.shared.words import (
    escape,
    fact_name,
    formatted,
    is_missing,
    joined,
    plural,
    promotes,
    shown_token,
    token_pairs,
    with_blank,
)
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.neuron import Neuron
from atlas.queries import selectivity
from atlas.queries.selectivity import Selectivity
from atlas.store.atlas import Atlas

RELATED_SHOWN = 12
HUBS_SHOWN = 20
# With fewer facts, one relation has most of them whatever the neuron does.
FEW_FACTS = 5


def main() -> None:
    atlas = layout.current_atlas()
    neuron = address.neuron_in_url()
    if neuron is None:
        name_a_neuron(atlas)
    else:
        show_neuron(atlas, neuron, queries.neuron(atlas, neuron.layer, neuron.neuron))


# No neuron yet ---------------------------------------------------------------------------------------


def name_a_neuron(atlas: Atlas) -> None:
    st.title("Neuron", anchor=False)
    with st.form("name", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        name = box.text_input("Layer and index", placeholder="L2.N1034", max_chars=20)
        if button.form_submit_button("Open", width="stretch") and name.strip():
            st.switch_page(links.NEURON, query_params=links.here(neuron=Neuron.parse(name)))
    st.subheader("Neurons of most relations", anchor=False)
    hubs = ask(queries.hub_neurons, atlas, limit=HUBS_SHOWN)
    if hubs.empty:
        layout.nothing("No neuron belongs to facts of more than one relation.")
    for row in hubs.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.neuron_link(row.layer, row.neuron)
            facts = f"{plural(row.n_facts, 'fact')} ({row.fact_share:.0%})"
            relations = plural(row.n_relations, "relation")
            st.caption(escape(joined(f"{facts} of {relations}", promotes(row.promoted, 5))))
    exports.offer("hubs", neurons=hubs)


# One neuron ------------------------------------------------------------------------------------------


def show_neuron(atlas: Atlas, neuron: Neuron, about: dict) -> None:
    st.title(escape(neuron), anchor=False)
    if not is_missing(about["label"]):
        st.markdown(f"**{escape(about['label'])}**")
        st.caption(
            f"Named after what its facts share. Its activation tells those facts from others in "
            f"{about['label_score']:.0%} of held-out prompts (balanced; chance: 50%)."
        )
    show_neighbours(atlas, neuron)
    actions = st.container(horizontal=True, vertical_alignment="center", gap="small")
    lacks = layout.say_unmeasured(atlas, "scores", "tokens", "activations")
    layout.number_boxes(
        {
            "Facts": (formatted(about["n_facts"]), "have this neuron"),
            "Relations": (formatted(about["n_relations"]), "of those facts"),
            "Value vector": (formatted(about["value_norm"], ".2f"), "Euclidean norm"),
        }
    )
    tables: dict[str, pd.DataFrame] = {}
    with layout.errors_as_sentences():
        show_selectivity(atlas, neuron)
    if "tokens" not in lacks:
        show_value_vector(about)
    with layout.errors_as_sentences():
        tables["facts"], tables["relations"] = show_neuron_facts(atlas, neuron, about["n_facts"], lacks)
    if "activations" not in lacks:
        with layout.errors_as_sentences():
            tables["prompts"] = show_activating_prompts(atlas, neuron)
    with layout.errors_as_sentences():
        tables["related_neurons"] = show_related(atlas, neuron, about["n_facts"])
    with actions:
        tray.add_button([neuron], key="neuron", source="its page")
        links.compare_link("neurons", str(neuron))
        exports.offer(str(neuron), **tables)


def show_neighbours(atlas: Atlas, neuron: Neuron) -> None:
    """Links to the neurons beside it, and to the nearest ones on either side that any fact has."""
    n_neurons = atlas.manifest.model.n_neurons
    lower, higher = neuron.neuron - 1, neuron.neuron + 1
    before, after = selectivity.nearest_neurons(atlas, neuron.layer, neuron.neuron)
    left, right = ":material/chevron_left:", ":material/chevron_right:"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if lower >= 0:
            links.neuron_link(neuron.layer, lower, icon=left)
        if n_neurons is None or higher < n_neurons:
            links.neuron_link(neuron.layer, higher, icon=right)
        # Most neurons belong to no fact.
        others = [
            (index, icon)
            for index, icon in ((before, left), (after, right))
            if index not in (None, lower, higher)
        ]
        if others:
            st.caption("with facts:", width="content")
        for index, icon in others:
            links.neuron_link(neuron.layer, index, icon=icon)


def show_selectivity(atlas: Atlas, neuron: Neuron) -> None:
    """How its facts gather in one relation and in one answer, beside as many facts drawn at random."""
    found = ask(selectivity.selectivity, atlas, neuron.layer, neuron.neuron)
    if found is None:
        return
    label = ask(queries.relations, atlas).set_index("relation_id")["label"].get(found.relation.name)
    for sentence in describe_selectivity(found, found.relation.name if is_missing(label) else label):
        st.markdown(sentence)


def describe_selectivity(found: Selectivity, label: str) -> list[str]:
    """How selective a neuron is, in sentences of markdown."""
    if found.n_facts == 1:
        return ["Only one fact uses it: too few to say how selective it is."]
    relation, answer = found.relation, found.answer
    sentences = [
        f"**{relation.n_facts:,} of its {found.n_facts:,} facts ({relation.share:.0%})** belong to one "
        f"relation, {escape(label)}. Of as many facts drawn at random, one relation would hold "
        f"{relation.by_chance:.0%}.",
        f"**{answer.n_facts:,} of them ({answer.share:.0%})** have one answer, {escape(answer.name)}. "
        f"Of as many facts drawn from the same relations, one answer would hold {answer.by_chance:.0%}.",
    ]
    if found.n_facts < FEW_FACTS:
        sentences.append("So few facts say little about how selective it is.")
    return sentences


def show_value_vector(about: dict) -> None:
    st.subheader("What it promotes", anchor=False)
    if which := about_sign(about):
        st.caption(which)
    pairs = {
        "Promotes": token_pairs(about["promoted"]),
        "Suppresses": token_pairs(about["suppressed"]),
    }
    if not all(pairs.values()):
        layout.nothing("Not measured: only neurons that a fact has are read out.")
        return
    for place, (title, tokens) in zip(st.columns(2, gap="medium"), pairs.items(), strict=True):
        with place:
            rows = pd.DataFrame(tokens)
            rows["token"] = rows["token"].map(shown_token)
            chart = partial(neuron_charts.token_bars, rows, title=title)
            layout.draw_chart(chart, f"Tokens: {title.lower()}")


def about_sign(about: dict) -> str:
    """On which side of zero it fires, where that decides what it promotes."""
    if is_missing(about["fires"]):
        return ""
    side = "below" if about["fires"] < 0 else "above"
    if about["sign_mixed"]:
        return f"It fires above zero for some of its facts and below for others; {side} zero on average."
    if side == "below":
        return "It fires below zero on its facts: it promotes the tokens that its value vector lowers."
    return ""


# Its facts -------------------------------------------------------------------------------------------


def show_neuron_facts(
    atlas: Atlas, neuron: Neuron, n_facts: int, lacks: frozenset[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A page of its facts, and how many each relation has; returns both tables."""
    st.subheader("Facts that use it", anchor=False)
    counts = selectivity.relations_of_neuron(atlas, neuron.layer, neuron.neuron)
    if counts.empty:
        layout.nothing("No fact has it as a knowledge neuron.")
        return counts, counts
    left, right = st.columns([2, 3], gap="medium")
    with right:
        sizes = dict(zip(counts["relation_id"], counts["n_facts"], strict=True))
        options = {
            row.relation_id: f"{row.label or row.relation_id} ({plural(row.n_facts, 'fact')})"
            for row in counts.itertuples(index=False)
        }
        relation = address.choice(
            "Relation", "relation", options, placeholder="all relations", label_visibility="collapsed"
        )
        rows = list_facts(atlas, neuron, relation, lacks)
        address.draw_page_numbers(sizes.get(relation, n_facts))
    with left:
        address.draw_clickable(
            partial(neuron_charts.neuron_relation_bars, counts, chosen=relation),
            "Its facts by relation",
            key=f"relations-{neuron}-{relation}",
            fields=["relation_id"],
            act=lambda relation_id: address.switch_in_url("relation", relation_id),
        )
        if len(counts) > neuron_charts.RELATIONS_SHOWN:
            st.caption(f"The {neuron_charts.RELATIONS_SHOWN} with most of its facts, of {len(counts)}.")
        st.caption("Click a bar for the facts of that relation.")
    return rows, counts


def list_facts(atlas: Atlas, neuron: Neuron, relation: str | None, lacks: frozenset[str]) -> pd.DataFrame:
    orders = {"score": "Mean score", "share": "Share of prompts", "subject": "Subject", "object": "Answer"}
    if "scores" in lacks:
        orders = {name: label for name, label in orders.items() if name in ("subject", "object")}
    rows = queries.facts_of_neuron(
        atlas,
        neuron.layer,
        neuron.neuron,
        relation=relation,
        order=address.segments("Sorted by", "sort", orders),
        limit=address.PAGE_ROWS,
        offset=address.page_offset(),
    )
    if rows.empty:
        layout.nothing("The list has fewer pages. Choose one below.")
    layout.fact_rows(rows, notes=fact_note)
    return rows


def fact_note(row) -> str:
    score = [] if is_missing(row.mean_score) else [f"score {row.mean_score:.3f}"]
    share = [] if is_missing(row.share) else [f"{row.share:.0%} of prompts"]
    return " · ".join([row.label or row.relation_id, *score, *share])


# Prompts ---------------------------------------------------------------------------------------------


def show_activating_prompts(atlas: Atlas, neuron: Neuron) -> pd.DataFrame:
    st.subheader("Prompts that activate it most and least", anchor=False)
    rows = queries.activating_prompts_of_neuron(atlas, neuron.layer, neuron.neuron)
    if rows.empty:
        layout.nothing("Not measured: only activations of neurons that a fact has are kept.")
        return rows
    sides = {"top": "Highest activation", "bottom": "Lowest activation"}
    for place, (side, title) in zip(st.columns(2, gap="medium"), sides.items(), strict=True):
        with place:
            st.markdown(f"**{title}**")
            for row in rows[rows["side"] == side].itertuples(index=False):
                prompt = "" if is_missing(row.text) else f" · {with_blank(row.text)}"
                with st.container(gap=None):
                    links.fact_link(row.fact_id, fact_name(row.subject, row.object))
                    st.caption(escape(f"activation {row.activation:.3f}{prompt}"))
    return rows


# Neurons of the same facts ---------------------------------------------------------------------------


def show_related(atlas: Atlas, neuron: Neuron, n_facts: int) -> pd.DataFrame:
    st.subheader("Neurons of the same facts", anchor=False)
    options = {"jaccard": "Overlap", "shared": "Facts in common"}
    order = address.segments("Sorted by", "related", options) if n_facts else "jaccard"
    rows = selectivity.related_neurons(atlas, neuron.layer, neuron.neuron, order=order, limit=RELATED_SHOWN)
    if rows.empty:
        layout.nothing("No other neuron has any of its facts.")
    for row in rows.itertuples(index=False):
        other = str(Neuron(int(row.layer), int(row.neuron)))
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            links.neuron_link(row.layer, row.neuron)
            links.compare_link("neurons", str(neuron), other)
            shared = f"{plural(row.n_shared, 'fact')} of {row.n_facts:,} in common, overlap {row.jaccard:.0%}"
            st.caption(escape(joined(shared, promotes(row.promoted, 4))))
    return rows


main()
