"""Home: what the atlas in view is, a first experiment, what changing neurons does, pictures, and ways in.

`?ratio=` is the ratio that effects are measured by: the paper's, or the replication's.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, limits, links, resources
from app.shared import evidence as sentences
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, fact_name, formatted, percentage, plural, with_blank
from atlas import queries
from atlas.charts import effects as effect_charts
from atlas.charts import neurons as neuron_charts
from atlas.charts import sharing as sharing_charts
from atlas.errors import AtlasError
from atlas.models import HUB_MB, KNOWN_MODELS, is_ready
from atlas.numbers import signed_percent
from atlas.store.atlas import Atlas


def main() -> None:
    st.title("Knowledge Neuron Atlas", anchor=False)
    st.markdown(
        "Which feed-forward neurons of a language model carry which fact, found by integrated gradients, "
        "and what the model says when they are changed."
    )
    atlas = layout.current_atlas()
    ways_in(atlas)
    summary = ask(queries.atlas_summary, atlas)
    lacks = show_atlas_summary(atlas, summary)
    offer_experiment(atlas)
    effects, facts = sentences.measured_effects(atlas)
    effects = sentences.on_held_out(effects)
    if not effects.empty:
        with layout.errors_as_sentences():
            headline(atlas, effects, facts)
    pictures(atlas, summary, effects, lacks)


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


# The atlas -------------------------------------------------------------------------------------------


def show_atlas_summary(atlas: Atlas, summary: queries.Summary) -> frozenset[str]:
    """Model, data set and numbers; returns what the atlas lacks."""
    model, dataset = atlas.manifest.model, atlas.manifest.dataset
    st.subheader(f"{escape(model.name)} × {escape(dataset.id)}", anchor=False)
    if model.name in KNOWN_MODELS:
        st.caption(escape(KNOWN_MODELS[model.name].description))
    lacks = layout.say_unmeasured(atlas, "known", "probabilities", "scores", "effects", "tokens")
    shape, share, known = "in all", NOT_MEASURED, "rank 1 on most prompts"
    if model.n_layers and model.n_neurons:
        shape = f"of {model.n_layers} × {model.n_neurons:,} in all"
    if summary.n_known is not None and summary.n_facts:
        share = f"{summary.n_known / summary.n_facts:.0%}"
        known = f"{summary.n_known:,} facts: rank 1 on most prompts"
    layout.number_boxes(
        {
            "Facts": (f"{summary.n_facts:,}", f"of {plural(summary.n_relations, 'relation')}"),
            "The model knows": (share, known),
            "Neurons per fact": (formatted(summary.mean_neurons, ".1f"), "mean, after refinement"),
            "Different neurons": (f"{summary.n_neurons:,}", shape),
            "Converged": (percentage(summary.converged_share, 1), "integrals within tolerance"),
        }
    )
    return lacks


# A first experiment ----------------------------------------------------------------------------------


def offer_experiment(atlas: Atlas) -> None:
    """A fact with a clear effect, and a button that opens the Lab with everything chosen."""
    fact = ask(queries.telling_fact, atlas)
    if fact is None:
        return
    model = atlas.manifest.model.name
    ready = is_ready(model)
    with st.container(border=True):
        st.markdown("##### :material/science: A first experiment")
        st.markdown(introduce_experiment(fact, model))
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            allowed = ready or can_be_fetched(model)
            if allowed and st.button("Suppress them in the Lab", type="primary", icon=":material/science:"):
                st.switch_page(links.LAB, query_params=links.here(fact=fact["fact_id"], run=1))
            links.fact_link(fact["fact_id"], "See the fact first")
        if not ready:
            offer_another_model(atlas, model)


def introduce_experiment(fact: dict, model: str) -> str:
    """What the model predicts, and what the atlas measured without the fact's neurons."""
    prompt = f"“{escape(with_blank(fact['text']))}”" if fact["text"] else escape(fact["subject"])
    # Only of a known fact is it true that the model says the answer.
    says, subject = (f"{escape(model)} says", "it") if fact["known"] else ("the answer is", escape(model))
    neurons = f"its {fact['n_neurons']} knowledge neurons" if fact["n_neurons"] > 1 else "its one neuron"
    text = f"{prompt}: {says} **{escape(fact['object'])}**. What does {subject} say without {neurons}?"
    before, after, random = fact["before"], fact["after"], fact["random"]
    if before is None or after is None:
        return text
    beside = "" if random is None else f"; with as many random neurons suppressed it is {random:.2f}"
    return (
        f"{text} In the atlas, suppressing them takes the answer's probability from **{before:.2f}** to "
        f"**{after:.2f}**{beside}. Try it on the live model."
    )


def can_be_fetched(model: str) -> bool:
    """Whether a visitor may have the Lab fetch this model, and it can be fetched from somewhere."""
    return limits.current().may_download(model) and (model in KNOWN_MODELS or model in HUB_MB)


def offer_another_model(atlas: Atlas, model: str) -> None:
    """Where the atlas's model is not on this machine: what the Lab does, and an atlas whose model is here."""
    if can_be_fetched(model):
        size = HUB_MB[model] if model in HUB_MB else KNOWN_MODELS[model].download_mb
        text = f"The model {model} is not on this machine yet: the Lab fetches it first ({size} MB)."
    else:
        text = f"The model {model} is not on this machine, so the Lab cannot run it."
    st.caption(escape(text))
    for atlas_id, folder in resources.atlases().items():
        try:
            # `glance` is cheap: open only an atlas whose model is here.
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
                label=escape(f"Try {name} in {other.manifest.model.name}, which is on this machine"),
                icon=":material/science:",
                query_params={"atlas": atlas_id, "fact": fact["fact_id"], "run": "1"},
            )
            return


# Effects ---------------------------------------------------------------------------------------------


def headline(atlas: Atlas, effects: pd.DataFrame, facts: str) -> None:
    """Suppressing and amplifying beside four controls, with intervals, in a picture and in words."""
    st.subheader("What changing a fact's neurons does", anchor=False)
    left, right = st.columns([3, 2], gap="medium")
    with right:
        ratio = sentences.choose_ratio(effects)
        for intervention in effect_charts.INTERVENTION_NAMES:
            st.markdown(sentences.verdict(effects, intervention, ratio=ratio))
    with left:
        chart = partial(effect_charts.effect_intervals, effects, ratio=ratio)
        layout.draw_chart(chart, "Effects beside their controls")
    n_relations = effects.loc[effects["group"] == "own", "n_relations"].max()
    sentences.note(
        f"Mean over {plural(n_relations, 'relation')}, with 95 % intervals: "
        f"{sentences.sample_size(effects, facts)}, on {sentences.templates_asked(atlas)}. "
        f"{sentences.RATIO_DEFINITIONS[ratio]} {sentences.describe_groups(effects)}"
    )


def effects_of_a_build(atlas: Atlas, effects: pd.DataFrame) -> None:
    """What an atlas has before `python -m build evaluate`: two controls, no intervals; or nothing."""
    if effects.empty:
        layout.nothing(f"Effects of changing neurons: {NOT_MEASURED}.")
        return
    layout.draw_chart(partial(effect_charts.effect_bars, effects), "Effects beside their controls")
    st.markdown(describe_suppression(effects))
    st.caption(f"{sentences.TWO_CONTROLS} Known facts, on {sentences.templates_asked(atlas)}.")


def describe_suppression(effects: pd.DataFrame) -> str:
    """What suppressing does, beside its controls, in a sentence."""
    rows = effects[effects["intervention"] == "suppress"]
    change = rows.set_index("group")["ratio_of_means"].dropna().map(signed_percent)
    parts = {
        "own": "Suppressing a fact's neurons changes the mean probability of its answer by **{}**",
        "random": "suppressing as many random neurons by {}",
        "unrelated": "on unrelated facts its own neurons change it by {}",
    }
    texts = [text.format(change[group]) for group, text in parts.items() if group in change]
    return f"{'; '.join(texts)}." if "own" in change else ""


# Pictures --------------------------------------------------------------------------------------------


def pictures(atlas: Atlas, summary: queries.Summary, measured: pd.DataFrame, lacks: frozenset[str]) -> None:
    """Layers, sharing and, where `headline` has not drawn them, effects."""
    by_layer = ask(queries.layer_histogram, atlas)
    of_a_build = measured.empty and "effects" not in lacks
    layers, sharing, *effects = st.columns(3 if of_a_build else 2, gap="medium")
    with layers:
        address.draw_clickable(
            partial(neuron_charts.layer_bars, by_layer),
            "Share of pairs by layer",
            key="layers",
            fields=["layer"],
            act=lambda layer: st.switch_page(links.SEARCH, query_params=links.here(layer=layer)),
        )
        st.markdown(describe_layers(by_layer))
        st.caption("A pair is a fact and one of its neurons. Click a layer for the facts with neurons there.")
    with sharing:
        if summary.within is None or summary.across is None:
            layout.nothing(f"Sharing between facts: {NOT_MEASURED}.")
        else:
            means = {
                "relation": ("same relation", summary.within),
                "unrelated": ("different relations", summary.across),
            }
            layout.draw_chart(partial(sharing_charts.sharing_bars, means), "Neurons two facts share")
            st.markdown(describe_sharing(summary.within, summary.across))
        icon = ":material/category:"
        st.page_link(links.RELATION, label="Sharing by relation", icon=icon, query_params=links.here())
    for place in effects:
        with place:
            effects_of_a_build(atlas, summary.effects)
    exports.offer(
        atlas.atlas_id,
        layers=by_layer,
        effects=summary.effects if measured.empty else measured,
        relations=ask(queries.relations, atlas),
    )


def describe_layers(by_layer: pd.DataFrame) -> str:
    """The fewest layers that hold half of the pairs, in a sentence."""
    rows = by_layer.sort_values("pair_share", ascending=False)
    if rows["pair_share"].isna().all():
        return "No fact has knowledge neurons."
    top = rows.head(int((rows["pair_share"].cumsum() < 0.5).sum()) + 1)
    *layers, last = sorted(top["layer"].astype(int))
    share = f"{top['pair_share'].sum():.0%} of the pairs"
    if not layers:
        return f"**Layer {last}** of {len(rows)} holds {share}."
    return f"**Layers {', '.join(map(str, layers))} and {last}** of {len(rows)} hold {share}."


def describe_sharing(within: float, across: float) -> str:
    if across <= 0 or within <= 0:
        return f"Two facts share **{within:.2f}** neurons within a relation, {across:.2f} across two."
    times = f"**{within / across:.1f} times**"
    return f"Two facts of one relation share {times} as many neurons as two of different relations."


main()
