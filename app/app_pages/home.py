"""Home: what the chosen atlas is, three pictures of it, and ways in."""

import streamlit as st

from app import charts, layout
from app.resources import ask
from atlas import queries
from atlas.models import KNOWN_MODELS
from atlas.store import Atlas


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
    pictures(atlas, summary)


def ways_in(atlas: Atlas) -> None:
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    with left.form("ask", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        text = box.text_input("Search all facts", placeholder="Azerbaijan, capital, Baku …", max_chars=200)
        if button.form_submit_button("Search", icon=":material/search:", width="stretch"):
            st.switch_page(layout.SEARCH, query_params=layout.here(q=text.strip()))
    if right.button("Random fact", icon=":material/casino:", width="stretch"):
        fact_id = queries.random_fact(atlas, known=True) or queries.random_fact(atlas)
        if fact_id is None:
            layout.nothing("No fact of this atlas has knowledge neurons.")
        else:
            st.switch_page(layout.FACT, query_params=layout.here(fact=fact_id))


def what_it_is(atlas: Atlas, summary: queries.Summary) -> None:
    model, dataset = atlas.manifest.model, atlas.manifest.dataset
    st.subheader(f"{layout.plain(model.name)} × {layout.plain(dataset.id)}", anchor=False)
    known = KNOWN_MODELS.get(model.name)
    if known is not None:
        st.caption(layout.plain(known.description))
    shape = (
        f"of {model.n_layers} × {model.n_neurons:,} in all"
        if model.n_layers and model.n_neurons
        else layout.NOT_MEASURED
    )
    known_facts = layout.NOT_MEASURED
    if summary.n_known is not None and summary.n_facts:
        known_facts = f"{summary.n_known / summary.n_facts:.0%}"
    layout.figures(
        {
            "Facts": (f"{summary.n_facts:,}", f"of {summary.n_relations} relations"),
            "The model knows": (known_facts, "rank 1 on most prompts"),
            "Neurons a fact": (layout.number(summary.mean_neurons, ".1f"), "mean, after refinement"),
            "Different neurons": (f"{summary.n_neurons:,}", shape),
            "Certified": (layout.percent(summary.converged_share, 1), "integrals in tolerance"),
        }
    )


def pictures(atlas: Atlas, summary: queries.Summary) -> None:
    layers, sharing, effects = st.columns(3, gap="medium")
    with layers:
        layout.draw(charts.layer_bars(ask(queries.layer_histogram, atlas)), "Share of pairs by layer")
    with sharing:
        if summary.within is None or summary.across is None:
            layout.nothing(f"Sharing between facts: {layout.NOT_MEASURED}.")
        else:
            layout.draw(charts.sharing_bars(summary.within, summary.across), "Neurons two facts share")
    with effects:
        if summary.effects.empty:
            layout.nothing(f"Effects of changing neurons: {layout.NOT_MEASURED}.")
        else:
            layout.draw(charts.effect_bars(summary.effects), "Effects beside their controls")
    st.caption(
        "A pair is a fact and one of its knowledge neurons. ×0 suppresses neurons and ×2 amplifies them: the "
        "fact's own, as many random ones of the same layers, and its own while unrelated facts are asked. "
        "Known facts, on prompts whose wording was kept out of the search for neurons."
    )


main()
