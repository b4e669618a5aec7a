"""Neuron: the facts that use it, how selective it is, what it promotes, and the prompts that move it most.

`?neuron=L9.N2141` names it; `relation` and `sort` say which of its facts are listed and how, `related` in
which order the neurons of the same facts come. Without a neuron: a box to name it, and the neurons of most
relations.
"""

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, links, tray
from app.shared.resources import ask
from app.shared.words import (
    NOT_MEASURED,
    escape,
    fact_name,
    formatted,
    is_missing,
    plural,
    shown_token,
    token_list,
)
from atlas import queries
from atlas.charts import look as charts
from atlas.charts import neurons as neuron_charts
from atlas.neuron import Neuron
from atlas.queries import selectivity
from atlas.queries.selectivity import Selectivity
from atlas.store.atlas import Atlas

FACTS_SHOWN = 20
RELATED_SHOWN = 12
HUBS_SHOWN = 20
LONGEST_NAME = 20
# Of fewer facts, one relation holds most whatever the neuron does.
FEW = 5
BLANK = "____"
SORTS = {
    "score": "Mean score",
    "share": "Share of prompts",
    "subject": "Subject",
    "object": "Answer",
}
RELATED = {"jaccard": "Overlap", "shared": "Facts in common"}
SIDES = {"top": "Most active on", "bottom": "Least active on"}


def main() -> None:
    atlas = layout.current_atlas()
    name = st.query_params.get("neuron", "")[:LONGEST_NAME]
    if not name:
        choose(atlas)
        return
    which = Neuron.parse(name)
    one_neuron(atlas, which, queries.neuron(atlas, which.layer, which.neuron))


# No neuron yet ---------------------------------------------------------------------------------------


def choose(atlas: Atlas) -> None:
    st.title("Neuron", anchor=False)
    with st.form("name", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        name = box.text_input("Layer and index", placeholder="L2.N1034", max_chars=LONGEST_NAME)
        if button.form_submit_button("Open", width="stretch") and name.strip():
            st.switch_page(links.NEURON, query_params=links.here(neuron=Neuron.parse(name)))
    st.subheader("Neurons of most relations", anchor=False)
    hubs = ask(queries.hub_neurons, atlas, limit=HUBS_SHOWN)
    if hubs.empty:
        layout.nothing("No neuron belongs to facts of more than one relation.")
        return
    for row in hubs.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.neuron_link(row.layer, row.neuron)
            promoted = token_list(row.promoted, 5)
            st.caption(
                escape(
                    f"{plural(row.n_facts, 'fact')} ({row.fact_share:.0%}) of "
                    f"{plural(row.n_relations, 'relation')} · promotes {promoted}"
                )
            )
    exports.offer("hubs", neurons=hubs)


# One neuron ------------------------------------------------------------------------------------------


def one_neuron(atlas: Atlas, which: Neuron, neuron: dict) -> None:
    st.title(escape(which), anchor=False)
    neighbours(atlas, which)
    actions = st.container(horizontal=True, vertical_alignment="center", gap="small")
    layout.figures(
        {
            "Facts": (formatted(neuron["n_facts"]), "have this neuron"),
            "Relations": (formatted(neuron["n_relations"]), "of those facts"),
            "Value vector": (formatted(neuron["value_norm"], ".2f"), "Euclidean norm"),
        }
    )
    tables: dict[str, pd.DataFrame] = {}
    with layout.errors_as_sentences():
        how_selective(atlas, which)
    value_vector(neuron)
    with layout.errors_as_sentences():
        tables["facts"], tables["relations"] = facts(atlas, which, neuron)
    with layout.errors_as_sentences():
        tables["prompts"] = activating(atlas, which)
    with layout.errors_as_sentences():
        tables["related_neurons"] = related(atlas, which, neuron["n_facts"])
    with actions:
        tray.add_button([which], key="neuron", source="its page")
        links.compare_link("neurons", str(which))
        exports.offer(str(which), **tables)


def neighbours(atlas: Atlas, which: Neuron) -> None:
    """The neurons beside it, and the nearest ones on either side that any fact has."""
    n_neurons = atlas.manifest.model.n_neurons
    before, after = selectivity.nearest_neurons(atlas, which.layer, which.neuron)
    left, right = ":material/chevron_left:", ":material/chevron_right:"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if which.neuron > 0:
            links.neuron_link(which.layer, which.neuron - 1, icon=left)
        if n_neurons is None or which.neuron + 1 < n_neurons:
            links.neuron_link(which.layer, which.neuron + 1, icon=right)
        # Most neurons carry no fact: the way to the next that does.
        before = None if before == which.neuron - 1 else before
        after = None if after == which.neuron + 1 else after
        if before is not None or after is not None:
            st.caption("with facts:", width="content")
        if before is not None:
            links.neuron_link(which.layer, before, icon=left)
        if after is not None:
            links.neuron_link(which.layer, after, icon=right)


def how_selective(atlas: Atlas, which: Neuron) -> None:
    """How its facts gather in one relation and in one answer, beside as many facts drawn at random."""
    found = ask(selectivity.selectivity, atlas, which.layer, which.neuron)
    if found is None:
        return
    labels = ask(queries.relations, atlas).set_index("relation_id")["label"]
    label = labels.get(found.relation.name)
    for sentence in sentences(found, found.relation.name if is_missing(label) else label):
        st.markdown(sentence)


def sentences(found: Selectivity, label: str) -> list[str]:
    """How selective a neuron is, in words; markdown."""
    if found.n_facts == 1:
        return ["One fact uses it, so nothing can be said about how selective it is."]
    relation, answer = found.relation, found.answer
    told = [
        f"**{relation.n_facts:,} of its {found.n_facts:,} facts ({relation.share:.0%})** belong to one "
        f"relation, {escape(label)}. Of as many facts drawn at random, one relation would hold "
        f"{relation.by_chance:.0%}.",
        f"**{answer.n_facts:,} of them ({answer.share:.0%})** have one answer, {escape(answer.name)}. "
        f"Of as many facts drawn from the same relations, one answer would hold {answer.by_chance:.0%}.",
    ]
    if found.n_facts < FEW:
        told.append("So few facts say little about how selective it is.")
    return told


def value_vector(neuron: dict) -> None:
    st.subheader("What its value vector says", anchor=False)
    sides = (("promoted", "Promotes", charts.BLUE), ("suppressed", "Suppresses", charts.ORANGE))
    for place, (side, title, colour) in zip(st.columns(2, gap="medium"), sides, strict=True):
        pairs = neuron[side]
        with place:
            if is_missing(pairs) or not len(pairs):
                layout.nothing(f"{title}: {NOT_MEASURED}.")
            else:
                rows = pd.DataFrame(list(pairs))
                rows["token"] = rows["token"].map(shown_token)
                layout.draw_chart(
                    charts.token_bars(rows, title=title, colour=colour), f"Tokens: {title.lower()}"
                )


# Its facts -------------------------------------------------------------------------------------------


def facts(atlas: Atlas, which: Neuron, neuron: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A page of its facts, and how many each relation has; gives both tables."""
    st.subheader("Facts that use it", anchor=False)
    counts = selectivity.relations_of_neuron(atlas, which.layer, which.neuron)
    if counts.empty:
        layout.nothing("No fact has it as a knowledge neuron.")
        return counts, counts
    left, right = st.columns([2, 3], gap="medium")
    with right:
        relation = choose_relation(counts)
        order = address.one_of("Sorted by", "sort", SORTS, label_visibility="collapsed")
        rows = list_facts(atlas, which, neuron["n_facts"], counts, relation, order)
    with left:
        address.draw_clickable(
            neuron_charts.neuron_relation_bars(counts, chosen=relation),
            "Its facts by relation",
            key=f"relations-{which}-{relation}",
            fields=["relation_id"],
            act=lambda relation_id: address.switch_in_url("relation", relation_id),
        )
        if len(counts) > neuron_charts.RELATIONS_SHOWN:
            st.caption(f"The {neuron_charts.RELATIONS_SHOWN} with most of its facts, of {len(counts)}.")
        st.caption("Click a bar for the facts of that relation.")
    return rows, counts


def choose_relation(counts: pd.DataFrame) -> str | None:
    """A relation's id; None for all of them."""
    options = {
        row.relation_id: f"{row.label or row.relation_id} ({plural(row.n_facts, 'fact')})"
        for row in counts.itertuples(index=False)
    }
    return address.choice(
        "Relation", "relation", options, placeholder="all relations", label_visibility="collapsed"
    )


def list_facts(
    atlas: Atlas,
    which: Neuron,
    n_facts: int,
    counts: pd.DataFrame,
    relation: str | None,
    order: str,
) -> pd.DataFrame:
    total = n_facts
    if relation is not None:
        total = int(counts.loc[counts["relation_id"] == relation, "n_facts"].iloc[0])
    rows = queries.facts_of_neuron(
        atlas,
        which.layer,
        which.neuron,
        relation=relation,
        order=order,
        limit=FACTS_SHOWN,
        offset=(address.page_asked() - 1) * FACTS_SHOWN,
    )
    if rows.empty:
        layout.nothing("There are fewer pages than that. Choose one below.")
    layout.fact_rows(rows, notes=fact_note)
    address.pages(total, FACTS_SHOWN)
    return rows


def fact_note(row) -> str:
    scored = [f"score {row.mean_score:.3f}"] if not is_missing(row.mean_score) else []
    shared = [f"{row.share:.0%} of prompts"] if not is_missing(row.share) else []
    return " · ".join([row.label or row.relation_id, *scored, *shared])


# Prompts ---------------------------------------------------------------------------------------------


def activating(atlas: Atlas, which: Neuron) -> pd.DataFrame:
    st.subheader("Prompts that move it", anchor=False)
    rows = queries.activating_prompts_of_neuron(atlas, which.layer, which.neuron)
    if rows.empty:
        layout.nothing(f"Activations: {NOT_MEASURED}.")
        return rows
    for place, (side, title) in zip(st.columns(2, gap="medium"), SIDES.items(), strict=True):
        with place:
            st.markdown(f"**{title}**")
            for row in rows[rows["side"] == side].itertuples(index=False):
                with st.container(gap=None):
                    links.fact_link(row.fact_id, fact_name(row.subject, row.object))
                    st.caption(escape(activation_note(row)))
    return rows


def activation_note(row) -> str:
    prompt = [] if is_missing(row.text) else [row.text.replace("[Y]", BLANK)]
    return " · ".join([f"activation {row.activation:.3f}", *prompt])


# Neurons of the same facts ---------------------------------------------------------------------------


def related(atlas: Atlas, which: Neuron, n_facts: int) -> pd.DataFrame:
    st.subheader("Neurons of the same facts", anchor=False)
    order = next(iter(RELATED))
    if n_facts:
        order = address.one_of("Sorted by", "related", RELATED, label_visibility="collapsed")
    rows = selectivity.related_neurons(atlas, which.layer, which.neuron, order=order, limit=RELATED_SHOWN)
    if rows.empty:
        layout.nothing("No other neuron has any of its facts.")
        return rows
    for row in rows.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            links.neuron_link(row.layer, row.neuron)
            other = str(Neuron(int(row.layer), int(row.neuron)))
            links.compare_link("neurons", str(which), other)
            promoted = token_list(row.promoted, 4)
            st.caption(
                escape(
                    f"{plural(row.n_shared, 'fact')} in common of {row.n_facts:,}, overlap "
                    f"{row.jaccard:.0%} · promotes {promoted}"
                )
            )
    return rows


main()
