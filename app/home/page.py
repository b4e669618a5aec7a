"""Home: what the chosen atlas is, a first experiment, what changing neurons does, pictures, and ways in.

`?ratio=` is the ratio that effects are told in: the paper's, or the replication's.
"""

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, limits, links, resources
from app.shared import evidence as evidence_show
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, fact_name, formatted, percentage, plural
from atlas import queries
from atlas.charts import evidence as evidence_charts
from atlas.charts import look as charts
from atlas.errors import AtlasError
from atlas.models import KNOWN_MODELS, is_ready
from atlas.neuron import OBJECT_SLOT
from atlas.numbers import signed_percent
from atlas.store.atlas import Atlas

GAP = "____"


def main() -> None:
    st.title("Knowledge Neuron Atlas", anchor=False)
    st.markdown(
        "Which feed-forward neurons of a language model carry which fact, found by integrated gradients, "
        "and what the model says when they are changed."
    )
    atlas = layout.current_atlas()
    summary = ask(queries.atlas_summary, atlas)
    ways_in(atlas)
    what_it_is(atlas, summary)
    first_experiment(atlas)
    effects, facts = evidence_show.effects_of(atlas, templates="held-out")
    if not effects.empty:
        with layout.errors_as_sentences():
            headline(effects, facts)
    pictures(atlas, summary, effects)


# Ways in ---------------------------------------------------------------------------------------------


def ways_in(atlas: Atlas) -> None:
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    with left.form("ask", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        text = box.text_input(
            "Search all facts",
            placeholder="Azerbaijan, capital, Baku …",
            max_chars=limits.current().search_length,
        )
        if button.form_submit_button("Search", icon=":material/search:", width="stretch"):
            st.switch_page(links.SEARCH, query_params=links.here(q=text.strip()))
    if right.button("Random fact", icon=":material/casino:", width="stretch"):
        fact_id = queries.random_fact(atlas, known=True) or queries.random_fact(atlas)
        if fact_id is None:
            layout.nothing("No fact of this atlas has knowledge neurons.")
        else:
            st.switch_page(links.FACT, query_params=links.here(fact=fact_id))


# What it is ------------------------------------------------------------------------------------------


def what_it_is(atlas: Atlas, summary: queries.Summary) -> None:
    model, dataset = atlas.manifest.model, atlas.manifest.dataset
    st.subheader(f"{escape(model.name)} × {escape(dataset.id)}", anchor=False)
    known = KNOWN_MODELS.get(model.name)
    if known is not None:
        st.caption(escape(known.description))
    shape = (
        f"of {model.n_layers} × {model.n_neurons:,} in all"
        if model.n_layers and model.n_neurons
        else NOT_MEASURED
    )
    share, knows = NOT_MEASURED, "rank 1 on most prompts"
    if summary.n_known is not None and summary.n_facts:
        share = f"{summary.n_known / summary.n_facts:.0%}"
        knows = f"{summary.n_known:,} facts: rank 1 on most prompts"
    layout.figures(
        {
            "Facts": (f"{summary.n_facts:,}", f"of {plural(summary.n_relations, 'relation')}"),
            "The model knows": (share, knows),
            "Neurons a fact": (formatted(summary.mean_neurons, ".1f"), "mean, after refinement"),
            "Different neurons": (f"{summary.n_neurons:,}", shape),
            "Certified": (percentage(summary.converged_share, 1), "integrals in tolerance"),
        }
    )


# A first experiment ----------------------------------------------------------------------------------


def first_experiment(atlas: Atlas) -> None:
    """One fact that shows the effect well, and the Lab with it, everything chosen."""
    fact = ask(queries.telling_fact, atlas)
    if fact is None:
        return
    model = atlas.manifest.model.name
    ready = is_ready(model)
    with st.container(border=True):
        st.markdown("##### :material/science: A first experiment")
        st.markdown(told(fact, model))
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            allowed = ready or can_be_fetched(model)
            if allowed and st.button("Switch them off in the Lab", type="primary", icon=":material/science:"):
                st.switch_page(links.LAB, query_params=links.here(fact=fact["fact_id"], run=1))
            links.fact_link(fact["fact_id"], "See the fact first")
        if not ready:
            elsewhere(atlas, model)


def told(fact: dict, model: str) -> str:
    """The experiment in two sentences: what the model says, and what the atlas measured."""
    plain = escape
    text = plain(fact["text"].replace(OBJECT_SLOT, GAP)) if fact["text"] else ""
    # Only of a known fact can it be claimed that the model says the answer.
    says = f"{plain(model)} says" if fact["known"] else "the answer is"
    asked = f"“{text}”: {says}" if text else f"{plain(fact['subject'])}: {says}"
    neurons = f"its {fact['n_neurons']} knowledge neurons" if fact["n_neurons"] > 1 else "its one neuron"
    subject = "it" if fact["known"] else plain(model)
    sentences = f"{asked} **{plain(fact['object'])}**. What does {subject} say without {neurons}?"
    before, after, random = fact["before"], fact["after"], fact["random"]
    if before is None or after is None:
        return sentences
    measured = f"In the atlas, the answer's probability falls from **{before:.2f}** to **{after:.2f}**"
    beside = "" if random is None else f"; without as many random neurons it is {random:.2f}"
    return f"{sentences} {measured}{beside}. Try it on the live model."


def can_be_fetched(model: str) -> bool:
    """Whether a visitor may have the Lab fetch this model, and there is somewhere to fetch it from."""
    return model in KNOWN_MODELS and limits.current().may_download(model)


def elsewhere(atlas: Atlas, model: str) -> None:
    """What to do where the atlas' model is not on this machine: fetch it, or take an atlas whose model is."""
    known = KNOWN_MODELS.get(model)
    if can_be_fetched(model):
        size = f"{known.download_mb} MB"
        said = f"The model {model} is not on this machine yet: the Lab fetches it first ({size})."
    else:
        said = f"The model {model} is not on this machine, so the Lab cannot ask it here."
    st.caption(escape(said))
    for atlas_id, folder in resources.atlases().items():
        try:
            # A glance first: only an atlas whose model is here is worth opening.
            if not is_ready(resources.glance(folder)[0].model.name):
                continue
            other = resources.opened(folder)
            fact = ask(queries.telling_fact, other)
        except AtlasError:
            continue
        if other.path != atlas.path and fact is not None:
            name = fact_name(fact["subject"], fact["object"])
            st.page_link(
                links.LAB,
                label=escape(f"Try {name} in {other.manifest.model.name}, which is here"),
                icon=":material/science:",
                query_params={"atlas": atlas_id, "fact": fact["fact_id"], "run": "1"},
            )
            return


# Pictures --------------------------------------------------------------------------------------------


def headline(effects: pd.DataFrame, facts: str) -> None:
    """The claim beside four controls, with intervals, and what a sceptic reads off them."""
    st.subheader("What changing a fact's neurons does", anchor=False)
    left, right = st.columns([3, 2], gap="medium")
    with right:
        ratio = evidence_show.choose_ratio()
        for intervention in charts.INTERVENTIONS:
            st.markdown(evidence_show.verdict(effects, intervention, ratio=ratio))
    with left:
        layout.draw_chart(
            evidence_charts.effect_intervals(effects, ratio=ratio), "Effects beside their controls"
        )
    own = effects[effects["group"] == "own"]
    relations = plural(own["n_relations"].max(), "relation")
    evidence_show.note(
        f"Mean over {relations}, with 95 % intervals: {evidence_show.counted(effects, facts)}, in wordings "
        f"that were kept out of the search for neurons. {evidence_show.RATIO_SAID[ratio]} "
        f"{evidence_show.groups_said(effects)}"
    )


def pictures(atlas: Atlas, summary: queries.Summary, measured: pd.DataFrame) -> None:
    """Layers, sharing and, where `headline` has not drawn them, effects."""
    by_layer = ask(queries.layer_histogram, atlas)
    layers, sharing, *effects = st.columns(3 if measured.empty else 2, gap="medium")
    with layers:
        address.draw_clickable(
            charts.layer_bars(by_layer),
            "Share of pairs by layer",
            key="layers",
            fields=["layer"],
            act=to_layer,
        )
        st.markdown(where_they_lie(by_layer))
        st.caption("A pair is a fact and one of its neurons. Click a layer for the facts with one there.")
    with sharing:
        if summary.within is None or summary.across is None:
            layout.nothing(f"Sharing between facts: {NOT_MEASURED}.")
        else:
            layout.draw_chart(charts.sharing_bars(summary.within, summary.across), "Neurons two facts share")
            st.markdown(what_is_shared(summary.within, summary.across))
        st.page_link(
            links.RELATION,
            label="Which relations share",
            icon=":material/category:",
            query_params=links.here(),
        )
    for place in effects:
        with place:
            effects_of_a_build(summary.effects)
    exports.offer(
        atlas.atlas_id,
        layers=by_layer,
        effects=summary.effects if measured.empty else measured,
        relations=ask(queries.relations, atlas),
    )


def effects_of_a_build(effects: pd.DataFrame) -> None:
    """What an atlas has before `python -m build evaluate`: two controls, no intervals; or nothing."""
    if effects.empty:
        layout.nothing(f"Effects of changing neurons: {NOT_MEASURED}.")
        return
    layout.draw_chart(charts.effect_bars(effects), "Effects beside their controls")
    st.markdown(what_it_does(effects))
    st.caption(
        "×0 suppresses neurons, ×2 amplifies them: the fact's own, as many random ones of the same layers, "
        "and its own while unrelated facts are asked. Known facts, on prompts whose wording was kept out of "
        "the search for neurons."
    )


def to_layer(layer: str) -> None:
    st.switch_page(links.SEARCH, query_params=links.here(layer=layer))


def where_they_lie(by_layer: pd.DataFrame) -> str:
    """The fewest layers that hold half of the pairs, in a sentence."""
    rows = by_layer.sort_values("pair_share", ascending=False)
    if rows["pair_share"].isna().all():
        return "No fact has knowledge neurons."
    n = int((rows["pair_share"].cumsum() < 0.5).sum()) + 1
    held = float(rows["pair_share"].head(n).sum())
    layers = [str(layer) for layer in sorted(int(layer) for layer in rows["layer"].head(n))]
    if n == 1:
        return f"**Layer {layers[0]}**, of {len(rows)}, holds {held:.0%} of them."
    return f"**Layers {', '.join(layers[:-1])} and {layers[-1]}**, of {len(rows)}, hold {held:.0%} of them."


def what_is_shared(within: float, across: float) -> str:
    if across <= 0 or within <= 0:
        return f"Two facts share **{within:.2f}** neurons in one relation, {across:.2f} across two."
    times = f"**{within / across:.1f} times**"
    return f"Two facts of one relation share {times} as many as two of different relations."


def what_it_does(effects: pd.DataFrame) -> str:
    """What suppression does, beside its controls, in a sentence."""
    change = effects[effects["intervention"] == "suppress"].set_index("group")["ratio_of_means"].dropna()
    parts = {
        "own": "Without its neurons, the mean probability of a fact's answer changes by **{}**",
        "random": "without as many random ones by {}",
        "unrelated": "that of unrelated facts by {}",
    }
    said = [text.format(signed_percent(change[group])) for group, text in parts.items() if group in change]
    return f"{'; '.join(said)}." if "own" in change else ""


main()
