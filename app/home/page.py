"""Home: what becomes of a text without a few neurons, a search over all atlases, their maps, the evidence.

1. *Example.* A text that an atlas stored, beside the same without a fact's neurons and without random ones.
2. *Search.* One box over all atlases at hand.
3. *Maps.* A card an atlas: what its model is, and where the neurons of each relation lie.
4. *Evidence.* What speaks against the thesis, what holds, and the effects in the atlas in view.

`?ratio=` is the ratio that effects are measured by: the paper's, or the replication's. Only the atlas in view
stays open: of the others the page keeps `queries.overview`.
"""

from functools import partial

import streamlit as st

from app.home import example, findings
from app.home.example import Seen
from app.shared import address, layout, limits, links, resources
from app.shared.words import escape, joined, plural
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.errors import AtlasError
from atlas.models import known_model, title_of
from atlas.store.atlas import Atlas, bundled


def main() -> None:
    st.title("Knowledge Neuron Atlas", anchor=False)
    st.markdown(
        "Which few neurons of a language model an answer depends on, whose they are, and what the model says "
        "when they are changed."
    )
    atlas = layout.current_atlas()
    seen, broken = overviews()
    example.show_example(atlas, seen)
    search_box(atlas)
    show_maps(seen, broken)
    findings.show_findings(atlas)


def overviews() -> tuple[dict[str, Seen], dict[str, AtlasError]]:
    """The atlases at hand by id, and what is wrong with those that cannot be opened.

    The bundled ones come first, of real models before those of toys, those of more facts first.
    """
    seen: dict[str, Seen] = {}
    broken: dict[str, AtlasError] = {}
    for atlas_id, folder in resources.atlases().items():
        try:
            seen[atlas_id] = resources.glance(folder, queries.overview)
        except AtlasError as error:
            broken[atlas_id] = error

    own = bundled()

    def place(atlas_id: str) -> tuple[bool, bool, int]:
        manifest, overview = seen[atlas_id]
        known = known_model(manifest.model.name)
        return atlas_id not in own, known is not None and known.is_toy, -overview.n_facts

    return {atlas_id: seen[atlas_id] for atlas_id in sorted(seen, key=place)}, broken


# Search ----------------------------------------------------------------------------------------------


def search_box(atlas: Atlas) -> None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left.form("search", border=False):
        box, button = st.columns([3, 1], vertical_alignment="bottom")
        text = box.text_input(
            "Search facts and neurons of all atlases",
            placeholder="Azerbaijan, capital, Paris, L9.N2141 …",
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


# Maps ------------------------------------------------------------------------------------------------


def show_maps(seen: dict[str, Seen], broken: dict[str, AtlasError]) -> None:
    """A card an atlas, in rows."""
    st.subheader("The maps", anchor=False)
    for place, (atlas_id, each) in zip(layout.cards(len(seen)), seen.items(), strict=True):
        with place.container(border=True, height="stretch", gap="small"):
            show_map(atlas_id, each)
    for error in broken.values():
        st.error(escape(layout.error_text(error)))
    st.caption(
        "A row is a relation, a column a layer; the stronger its colour, the more of the relation's neurons "
        "lie there. Click a cell for them."
    )


def show_map(atlas_id: str, seen: Seen) -> None:
    manifest, overview = seen
    model = manifest.model
    title = f"{title_of(model.name)} × {manifest.dataset.id}"
    st.markdown(f"**{escape(title)}**")
    known = known_model(model.name)
    if known is not None:
        st.markdown(f"{'A toy' if known.is_toy else 'Real'}: {escape(known.in_short)}.")
    address.draw_clickable(
        partial(neuron_charts.relation_layers, overview.layers, n_layers=model.n_layers),
        f"{title}: relations by layers, with the share of each relation's neurons",
        key=f"map-{atlas_id}",
        fields=["relation_id", "layer"],
        act=partial(open_cell, atlas_id),
    )
    facts = f"{plural(overview.n_facts, 'fact')} of {plural(overview.n_relations, 'relation')}"
    n_known = "" if overview.n_known is None else f"{overview.n_known:,} known to it"
    measured = "neurons only" if overview.effects.empty else "effects measured, with controls"
    st.caption(escape(joined(facts, n_known, measured, atlas_id)))
    with st.container(horizontal=True, gap="medium"):
        for label, icon, page in (
            ("Facts", ":material/search:", links.SEARCH),
            ("Relations", ":material/category:", links.RELATION),
        ):
            st.page_link(page, label=label, icon=icon, query_params=links.here(atlas=atlas_id))


def open_cell(atlas_id: str, relation_id: str, layer: str) -> None:
    parameters = links.here(atlas=atlas_id, relation=relation_id, layer=layer)
    st.switch_page(links.RELATION, query_params=parameters)


main()
