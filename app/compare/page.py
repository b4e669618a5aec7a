"""Compare: two facts, relations or neurons, one fact in two atlases, or two sets of prompts in a live model.

1. *Choose.* `?kind=` says what, `?a=` and `?b=` which two; for atlases `a` is a fact and `?other=` an atlas;
   sets of prompts have parameters of their own (`app.compare.prompts`).
2. *Side by side.* The same measures of both.
3. *Overlap.* What is in both and in one only, beside what as many drawn at random would share.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.compare import charts, prompts, show
from app.compare.atlases import two_atlases
from app.compare.choose import must_differ, pick_fact, suggest_pairs, swap_link
from app.shared import address, exports, layout, links, tray
from app.shared.resources import ask
from app.shared.words import (
    NOT_MEASURED,
    escape,
    fact_name,
    formatted,
    is_missing,
    neurons_of,
    percentage,
    shown_token,
    token_list,
    token_pairs,
)
from atlas import queries
from atlas.charts import sharing as sharing_charts
from atlas.neuron import Neuron
from atlas.queries import comparison
from atlas.store.atlas import Atlas

KINDS_OF_PAIRS = {
    "facts": "Two facts",
    "relations": "Two relations",
    "neurons": "Two neurons",
    "atlases": "A fact in two atlases",
    "prompts": "Two sets of prompts",
}
LEAST_SHARES = {"0": "any", "0.05": "5 %", "0.1": "10 %", "0.25": "25 %", "0.5": "50 %"}
TOP_FACTS = 8


def main() -> None:
    st.title("Compare", anchor=False)
    st.markdown(
        "What two facts, relations, neurons, atlases or sets of prompts have in common, beside chance."
    )
    atlas = layout.current_atlas()
    match choose_kind():
        case "facts":
            two_facts(atlas)
        case "relations":
            two_relations(atlas)
        case "neurons":
            two_neurons(atlas)
        case "atlases":
            two_atlases(atlas)
        case "prompts":
            prompts.two_sets(atlas)


# Choose ----------------------------------------------------------------------------------------------


def choose_kind() -> str:
    kind = st.query_params.get("kind")
    kind = kind if kind in KINDS_OF_PAIRS else "facts"
    st.session_state["compare-kind"] = kind
    st.segmented_control(
        "What to compare",
        list(KINDS_OF_PAIRS),
        format_func=KINDS_OF_PAIRS.get,
        key="compare-kind",
        on_change=_kind_chosen,
        required=True,
        label_visibility="collapsed",
    )
    return kind


def _kind_chosen() -> None:
    """Ids of one kind mean nothing for another."""
    of_one_kind = ("a", "b", "other", "least", *prompts.PARAMETERS)
    address.write(dict.fromkeys(of_one_kind) | {"kind": st.session_state["compare-kind"]})


# Two facts -------------------------------------------------------------------------------------------


def two_facts(atlas: Atlas) -> None:
    left, right = st.container(key="compare-facts").columns(2, gap="medium")
    with left:
        a = pick_fact(atlas, "a", "fact A", beside=address.id_in_url("b"))
    with right:
        b = pick_fact(atlas, "b", "fact B", beside=address.id_in_url("a"))
    if a is None or b is None:
        one = next((fact["fact_id"] for fact in (a, b) if fact is not None), None)
        suggest_pairs(atlas, "facts", "Choose two facts to see which neurons they share.", one)
        return
    must_differ(a["fact_id"], b["fact_id"])
    for place, fact in ((left, a), (right, b)):
        with place, st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.fact_link(fact["fact_id"], fact_name(fact["subject"], fact["object"]))
            layout.known_badge(fact["known"])
            links.lab_link(fact["fact_id"])
    swap_link(kind="facts", a=b["fact_id"], b=a["fact_id"])
    measures = fact_measures(atlas, a, b)
    show.show_measures(measures, *(fact_name(f["subject"], f["object"]) for f in (a, b)))

    rows = comparison.neurons_of_facts(atlas, a["fact_id"], b["fact_id"])
    usual = usually_shared(atlas, a["relation_id"], b["relation_id"])
    where = "its relation" if a["relation_id"] == b["relation_id"] else "these two relations"
    beside = "" if usual is None else f" Two facts of {where} share {usual:.1f} on average."
    show.show_overlap_of_neurons(atlas, rows, measure="score", title="Mean score", beside=beside)
    exports.offer(f"{a['fact_id']}-{b['fact_id']}", measures=measures, neurons=show.with_tokens(rows))


def fact_measures(atlas: Atlas, a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    effects = [comparison.suppression(atlas, fact=fact["fact_id"]) for fact in (a, b)]
    return show.measure_rows(
        {
            "Relation": [fact["label"] or fact["relation_id"] for fact in (a, b)],
            "Known": [show.yes_or_no(fact["known"]) for fact in (a, b)],
            "Answer's probability (mean)": [formatted(f["mean_probability"], ".3f") for f in (a, b)],
            "Prompts": [formatted(fact["n_prompts"]) for fact in (a, b)],
            "Knowledge neurons": [formatted(fact["n_neurons"]) for fact in (a, b)],
            **show.effect_measures(effects, [show.why_no_effects(fact) for fact in (a, b)]),
        }
    )


def usually_shared(atlas: Atlas, a: str, b: str) -> float | None:
    """Mean number of neurons that two facts of these relations share."""
    overlap = ask(queries.relation_overlap, atlas)
    found = overlap[(overlap["relation_a"] == a) & (overlap["relation_b"] == b)]["mean_shared"]
    return None if found.empty or is_missing(found.iloc[0]) else float(found.iloc[0])


# Two relations ---------------------------------------------------------------------------------------


def two_relations(atlas: Atlas) -> None:
    relations = ask(queries.relations, atlas)
    ids = list(relations["relation_id"])
    names = [label or r for r, label in zip(ids, relations["label"], strict=True)]
    options = {r: f"{name} ({r})" for r, name in zip(ids, names, strict=True)}
    chosen: list[str] = []
    for place, name in zip(st.columns(2, gap="medium"), ("a", "b"), strict=True):
        with place:
            address.choice(f"Relation {name.upper()}", name, options, placeholder="Choose a relation")
            relation = address.id_in_url(name)
            if relation and relation not in options:
                st.error(escape(f"The atlas {atlas.atlas_id} has no relation '{relation}'. Choose one."))
            elif relation:
                chosen.append(relation)
                links.relation_link(relation, options[relation])
    if len(chosen) < 2:
        one = next(iter(chosen), None)
        suggest_pairs(atlas, "relations", "Choose two relations to see which neurons their facts share.", one)
        return
    a, b = chosen
    must_differ(a, b)
    swap_link(kind="relations", a=b, b=a)
    rows = relations.set_index("relation_id")
    measures = relation_measures(atlas, rows.loc[a], rows.loc[b], a, b)
    show.show_measures(measures, options[a], options[b])

    means = {
        "first": ("two facts of A", usually_shared(atlas, a, a)),
        "shared": ("one of A, one of B", usually_shared(atlas, a, b)),
        "second": ("two facts of B", usually_shared(atlas, b, b)),
        "unrelated": ("any two relations", ask(queries.atlas_summary, atlas).across),
    }
    if any(mean is not None for _, mean in means.values()):
        layout.draw_chart(
            partial(sharing_charts.sharing_bars, means),
            "Neurons two facts share: of A, of A and B, of B, of any two",
        )
    label = "Smallest share of a relation's facts that a neuron must belong to"
    least = address.segments(label, "least", LEAST_SHARES, default="0.1", label_visibility="visible")
    # Not cached: there are thousands of pairs, and some have thousands of neurons.
    rows = comparison.neurons_of_relations(atlas, a, b, least=float(least))
    show.show_overlap_of_neurons(atlas, rows, measure="share", title="Share of facts", percent=True)
    exports.offer(f"{a}-{b}", measures=measures, neurons=show.with_tokens(rows))


def relation_measures(atlas: Atlas, a, b, id_a: str, id_b: str) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    effects = [ask(comparison.suppression, atlas, relation=each) for each in (id_a, id_b)]
    absent = [
        "the model knows none of its facts" if each["known_share"] == 0 else NOT_MEASURED for each in (a, b)
    ]
    return show.measure_rows(
        {
            "Facts": [formatted(each["n_facts"]) for each in (a, b)],
            "Templates": [formatted(each["n_templates"]) for each in (a, b)],
            "The model knows": [percentage(each["known_share"]) for each in (a, b)],
            "Answer's probability (mean)": [formatted(each["mean_probability"], ".3f") for each in (a, b)],
            "Neurons per fact (mean)": [formatted(each["mean_neurons"], ".1f") for each in (a, b)],
            **show.effect_measures(effects, absent),
        }
    )


# Two neurons -----------------------------------------------------------------------------------------


def two_neurons(atlas: Atlas) -> None:
    hubs = ask(queries.hub_neurons, atlas)
    offered = [str(neuron) for neuron in neurons_of(hubs)]
    chosen: list[tuple[Neuron, dict[str, Any]]] = []
    for place, name in zip(st.columns(2, gap="medium"), ("a", "b"), strict=True):
        text = address.id_in_url(name)[:20]
        with place:
            address.choice(
                f"Neuron {name.upper()}",
                name,
                {each: each for each in dict.fromkeys([*([text] if text else []), *offered])},
                placeholder="Choose one, or type L2.N1034",
                accept_new_options=True,
            )
            if text:
                with layout.errors_as_sentences():
                    neuron = Neuron.parse(text)
                    chosen.append((neuron, queries.neuron(atlas, neuron.layer, neuron.neuron)))
                    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                        links.neuron_link(neuron.layer, neuron.neuron)
                        tray.add_button([neuron], key=f"compare-{name}")
    if len(chosen) < 2:
        one = next((str(neuron) for neuron, _ in chosen), None)
        suggest_pairs(atlas, "neurons", "Choose two neurons to see which facts use both.", one)
        return
    (a, about_a), (b, about_b) = chosen
    must_differ(str(a), str(b))
    swap_link(kind="neurons", a=str(b), b=str(a))
    measures = neuron_measures(about_a, about_b)
    show.show_measures(measures, str(a), str(b))

    facts = comparison.facts_of_neurons(atlas, a, b)
    st.subheader("Facts in common", anchor=False)
    if facts.empty:
        layout.nothing("No fact has either of them as a knowledge neuron.")
        return
    shared = comparison.overlap(facts, size=ask(comparison.n_facts_with_neurons, atlas))
    show.describe_overlap(shared, "fact", "as many facts drawn at random")
    left, right = st.columns(2, gap="medium")
    with left:
        layout.draw_chart(
            partial(charts.overlap_bars, shared, "facts"), "Facts of A only, of both, of B only"
        )
    with right:
        layout.draw_chart(
            partial(charts.relation_bars, facts), "Facts of A only, of both, of B only by relation"
        )
    list_top_facts(facts[facts["where"] == "both"], "Use both")
    for place, where, name in zip(st.columns(2, gap="medium"), ("a", "b"), (a, b), strict=True):
        with place:
            list_top_facts(facts[facts["where"] == where], f"Use {name} only")
    exports.offer(f"{a}-{b}", measures=measures, facts=facts)


def list_top_facts(facts: pd.DataFrame, title: str) -> None:
    if facts.empty:
        return
    st.markdown(f"**{escape(title)}** ({len(facts):,})")
    layout.fact_rows(facts.head(TOP_FACTS), notes=relation_and_scores)
    if len(facts) > TOP_FACTS:
        st.caption(f"The {TOP_FACTS} with the largest scores; the export has all.")


def relation_and_scores(row: Any) -> str:
    scores = [
        f"{name} {score:.3f}"
        for name, score in (("A", row.score_a), ("B", row.score_b))
        if not is_missing(score)
    ]
    return " · ".join([row.label or row.relation_id, *([f"score {', '.join(scores)}"] if scores else [])])


def neuron_measures(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Columns: measure, a, b (text)."""
    both = (a, b)
    promoted, suppressed = (
        ", ".join(sorted(token_set(a[side]) & token_set(b[side]))) for side in ("promoted", "suppressed")
    )
    return show.measure_rows(
        {
            "Facts": [formatted(each["n_facts"]) for each in both],
            "Relations": [formatted(each["n_relations"]) for each in both],
            "Value vector's norm": [formatted(each["value_norm"], ".2f") for each in both],
            "Promotes": [token_list(each["promoted"]) for each in both],
            "Suppresses": [token_list(each["suppressed"]) for each in both],
            **({"Both promote": [promoted] * 2} if promoted else {}),
            **({"Both suppress": [suppressed] * 2} if suppressed else {}),
        }
    )


def token_set(pairs: list[Mapping[str, Any]] | None) -> set[str]:
    return {shown_token(pair["token"]) for pair in token_pairs(pairs)}


main()
