"""Neuron: what it is called, what activates it, what it pushes, the facts that use it, neurons like it.

`?neuron=L9.N2141` names it; `text` is a visitor's own sentence, `relation` says which facts are listed,
`related` by what the neurons like it are found. Without a neuron: a box to name one, and the neurons of most
relations.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.neuron import live
from app.shared import address, exports, layout, links, texts, tray
from app.shared.resources import ask
from app.shared.words import (
    escape,
    fact_name,
    is_missing,
    joined,
    plural,
    shown_token,
    token_pairs,
    with_blank,
)
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.queries import selectivity
from atlas.queries.selectivity import Selectivity
from atlas.store.atlas import Atlas

RELATED_SHOWN = 12
HUBS_SHOWN = 20
# With fewer facts, one relation has most of them whatever the neuron does.
FEW_FACTS = 5
SIDES = {"top": "Highest activation", "bottom": "Lowest activation"}


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
    if text := layout.search_form("A neuron, or a word that it pushes", "L2.N1034"):
        open_neuron(text)
    examples = queries.example_neurons(atlas)
    layout.examples(
        (links.NEURON, name if is_missing(label) else f"{label} ({name})", {"neuron": name})
        for name, label in zip(layout.codes(examples), examples["label"], strict=True)
    )
    st.subheader("Neurons of most relations", anchor=False)
    hubs = ask(queries.hub_neurons, atlas, limit=HUBS_SHOWN)
    if hubs.empty:
        layout.nothing("No neuron belongs to facts of more than one relation.")
    else:
        layout.neuron_table(hubs, "The neurons of most relations")
    exports.offer("hubs", neurons=hubs)


def open_neuron(text: str) -> None:
    """Go to the neuron of that code; what is no code is searched."""
    try:
        name = str(Neuron.parse(text))
    except AtlasError:
        st.switch_page(links.SEARCH, query_params=links.here(q=text))
    st.switch_page(links.NEURON, query_params=links.here(neuron=name))


# One neuron ------------------------------------------------------------------------------------------


def show_neuron(atlas: Atlas, neuron: Neuron, about: dict) -> None:
    show_name(atlas, neuron, about)
    actions = st.container(horizontal=True, vertical_alignment="center", gap="small")
    with actions:
        tray.add_button([neuron], key="neuron", source="its page")
    tables = show_findings(atlas, neuron, about) if about["n_facts"] else show_live_only(atlas, neuron)
    show_neighbours(atlas, neuron)
    with actions:
        links.compare_link("neurons", str(neuron))
        exports.offer(str(neuron), **tables)


def show_live_only(atlas: Atlas, neuron: Neuron) -> dict[str, pd.DataFrame]:
    """Of a neuron that no fact has, what the model itself can be asked; returns the tables shown."""
    layout.nothing("No fact has it as a knowledge neuron, so the atlas holds nothing about it.")
    with layout.errors_as_sentences():
        live.show_own_text(atlas, neuron, 0.0)
    with layout.errors_as_sentences():
        return {"related_neurons": show_related(atlas, neuron, 0)}
    return {}


def show_findings(atlas: Atlas, neuron: Neuron, about: dict) -> dict[str, pd.DataFrame]:
    """What the atlas found of it, and what the model can be asked; returns the tables shown."""
    lacks = layout.say_unmeasured(atlas, "scores", "tokens", "activations")
    tables: dict[str, pd.DataFrame] = {}
    prompts = queries.activating_prompts_of_neuron(atlas, neuron.layer, neuron.neuron)
    largest = float(prompts["activation"].abs().max()) if len(prompts) else 0.0
    if "activations" not in lacks or live.at_hand(atlas):
        st.subheader("What activates it", anchor=False)
    with layout.errors_as_sentences():
        live.show_own_text(atlas, neuron, largest)
    if "activations" not in lacks:
        with layout.errors_as_sentences():
            show_activating_prompts(prompts, largest)
            tables["prompts"] = prompts
    if "tokens" not in lacks:
        show_value_vector(about)
    with layout.errors_as_sentences():
        tables["facts"], tables["relations"] = show_neuron_facts(atlas, neuron, about["n_facts"])
    with layout.errors_as_sentences():
        tables["related_neurons"] = show_related(atlas, neuron, about["n_facts"])
    return tables


def show_name(atlas: Atlas, neuron: Neuron, about: dict) -> None:
    """Its name first, then its code, its numbers, and how selective it is."""
    named = not is_missing(about["label"])
    st.title(escape(about["label"] if named else neuron), anchor=False)
    numbers = [
        str(neuron) if named else "",
        plural(about["n_facts"], "fact"),
        plural(about["n_relations"], "relation"),
        "" if is_missing(about["value_norm"]) else f"value vector of norm {about['value_norm']:.2f}",
    ]
    st.caption(
        escape(joined(*numbers)),
        help="The code is layer and index, both counted from 0. Its facts are those whose answer it carries. "
        "Its value vector is what it adds to the model's state for each unit of activation.",
    )
    if named:
        st.caption(
            f"Named after what its facts share. Its activation tells those facts from others in "
            f"{about['label_score']:.0%} of prompts that it was not named by; guessing would in 50%."
        )
    with layout.errors_as_sentences():
        show_selectivity(atlas, neuron)


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


# What activates it -----------------------------------------------------------------------------------


def show_activating_prompts(prompts: pd.DataFrame, largest: float) -> None:
    if prompts.empty:
        layout.nothing("Its activations were not measured.")
        return
    if prompts["tokens"].notna().any():
        st.caption(
            "Orange: above zero; blue: below; the deeper, the stronger. A frame is around the token that the "
            "answer is read from. Hover a token for its number."
        )
    for place, (side, title) in zip(st.columns(2, gap="medium"), SIDES.items(), strict=True):
        with place:
            st.markdown(f"**{title}**")
            rows = prompts[prompts["side"] == side].itertuples(index=False)
            texts.draw(*(prompt_block(row, largest) for row in rows))


def prompt_block(row, largest: float) -> str:
    """A prompt as HTML: its fact as a link, its activation, its tokens in colour."""
    address = links.cell(links.FACT, "", fact=row.fact_id).removesuffix("#")
    name = texts.link(address, fact_name(row.subject, row.object))
    head = f"{name} {texts.signed(row.activation)}"
    if is_missing(row.tokens) or is_missing(row.activations):
        return f"<p>{head}</p>{texts.parted(with_blank(row.text))}"
    answer = None if is_missing(row.answer_position) else int(row.answer_position)
    return head + texts.heat(row.tokens, row.activations, largest=largest, answer=answer)


# What it pushes --------------------------------------------------------------------------------------


def show_value_vector(about: dict) -> None:
    st.subheader(
        "What it pushes",
        anchor=False,
        help="The tokens that its value vector makes likelier and less likely, read through the model's own "
        "output layer. Other neurons and layers add to that.",
    )
    if which := about_sign(about):
        st.caption(which)
    pairs = {
        "Pushes": token_pairs(about["promoted"]),
        "Holds back": token_pairs(about["suppressed"]),
    }
    if not all(pairs.values()):
        layout.nothing("It was not read out.")
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
        return "It fires below zero on its facts: it pushes the tokens that its value vector lowers."
    return ""


# Its facts -------------------------------------------------------------------------------------------


def show_neuron_facts(atlas: Atlas, neuron: Neuron, n_facts: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of its facts, how many each relation has, how active it is on them; returns both tables."""
    st.subheader("Facts that use it", anchor=False)
    counts = selectivity.relations_of_neuron(atlas, neuron.layer, neuron.neuron)
    sizes = dict(zip(counts["relation_id"], counts["n_facts"], strict=True))
    options = {
        row.relation_id: f"{row.label or row.relation_id} ({plural(row.n_facts, 'fact')})"
        for row in counts.itertuples(index=False)
    }
    relation = address.choice(
        "Relation", "relation", options, placeholder="all relations", label_visibility="collapsed"
    )
    rows = list_facts(atlas, neuron, relation)
    address.draw_page_numbers(sizes.get(relation, n_facts), address.TABLE_ROWS)
    left, right = st.columns(2, gap="medium")
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
    activations = queries.activations_of_neuron(atlas, neuron.layer, neuron.neuron)
    if len(activations) > 1:
        with right:
            chart = partial(neuron_charts.activation_bars, activations)
            layout.draw_chart(chart, "How its mean activation spreads over its facts")
    return rows, counts


def list_facts(atlas: Atlas, neuron: Neuron, relation: str | None) -> pd.DataFrame:
    page = {"limit": address.TABLE_ROWS, "offset": address.page_offset(address.TABLE_ROWS)}
    rows = queries.facts_of_neuron(atlas, neuron.layer, neuron.neuron, relation=relation, **page)
    if rows.empty:
        layout.nothing("The list has fewer pages. Choose one below.")
    else:
        layout.fact_table(rows.drop(columns="known"), "The facts that use the neuron")
    return rows


# Neurons like it -------------------------------------------------------------------------------------


def show_related(atlas: Atlas, neuron: Neuron, n_facts: int) -> pd.DataFrame:
    options = {"jaccard": "By overlap of facts", "shared": "By facts in common"} if n_facts else {}
    if live.at_hand(atlas):
        options["cosine"] = "By value vector"
    if not options:
        return pd.DataFrame()
    st.subheader("Neurons like it", anchor=False)
    order = address.segments("Found by", "related", options)
    if order == "cosine":
        rows = live.by_value_vector(atlas, neuron)
    else:
        shown = {"order": order, "limit": RELATED_SHOWN}
        rows = selectivity.related_neurons(atlas, neuron.layer, neuron.neuron, **shown)
    if rows.empty:
        layout.nothing("No other neuron has any of its facts.")
        return rows
    layout.neuron_table(with_comparison(rows, neuron), "Neurons like it")
    return rows


def with_comparison(rows: pd.DataFrame, neuron: Neuron) -> pd.DataFrame:
    """The neurons with a link that puts each beside this one."""
    cells = [
        links.cell(links.COMPARE, "Compare", kind="neurons", a=neuron, b=code) for code in layout.codes(rows)
    ]
    return rows.assign(compare=cells)


def show_neighbours(atlas: Atlas, neuron: Neuron) -> None:
    """Links to the neurons beside it, and to the nearest ones on either side that any fact has."""
    n_neurons = atlas.manifest.model.n_neurons
    lower, higher = neuron.neuron - 1, neuron.neuron + 1
    before, after = selectivity.nearest_neurons(atlas, neuron.layer, neuron.neuron)
    left, right = ":material/chevron_left:", ":material/chevron_right:"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Beside it:", width="content")
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


main()
