"""What an address leads to: the title of its tab, and a description for link previews.

    describe("fact", {"fact": "P36:france", "atlas": "starter-smollm2-135m"})
    # ("France → Paris · SmolLM2-135M", "capital · known · probability 0.77 · 5 neurons")

A page is a function of its address, so neither needs a session: `app/hosted.py` writes both into the HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace

import streamlit as st

from app.shared import layout, limits
from app.shared.resources import ask
from app.shared.words import about_fact, fact_name, is_missing, joined, plural, promotes, relation_name
from atlas import queries
from atlas.errors import AtlasError, QueryError
from atlas.models import title_of
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

# By the page's path, while its address names nothing that the atlas has.
PAGES = {
    "": (
        "Knowledge Neuron Atlas",
        "Which neurons of a language model an answer depends on, and what they do.",
    ),
    "search": ("Search", "Facts and neurons of all atlases, by what they are called."),
    "fact": ("Fact", "What the model says, where a fact's neurons lie, and what they do."),
    "relation": ("Relations", "The relations of an atlas, and the neurons that their facts share."),
    "neuron": ("Neuron", "The facts of a neuron, what it promotes, and what activates it."),
    "lab": ("Lab", "Change a few neurons of a live model and see how its answers change."),
    "compare": ("Compare", "What two facts, relations, neurons or atlases have in common, beside chance."),
    "planted": ("Leaderboard", "Which methods find the neurons that a made-up answer was planted in."),
    "evidence": ("Evidence", "What was claimed of knowledge neurons, and what was measured."),
    "sql": ("SQL", "Any question about an atlas, as a query."),
    "atlases": ("Atlases", "The atlases on this machine, and what each was made from."),
}


def show_title(page: str) -> None:
    """Give the tab the title of the address in view; `page` is the page's path."""
    st.set_page_config(page_title=describe(page, st.query_params.to_dict())[0])


def describe(page: str, parameters: Mapping[str, str]) -> tuple[str, str]:
    """The title and the description of an address; of its page where it names nothing that there is."""
    title, about = PAGES[page]
    with suppress(AtlasError):
        atlas = layout.atlas_named(parameters.get("atlas"))
        model = title_of(atlas.manifest.model.name)
        with suppress(AtlasError):
            longest = limits.current().search_length
            ids = {name: text[:longest] for name, text in parameters.items() if text}
            title, about = _describe_subject(page, ids, atlas) or (title, about)
        title = f"{title} · {model}"
    return title, about


def _describe_subject(page: str, ids: Mapping[str, str], atlas: Atlas) -> tuple[str, str] | None:
    """What the address names; None where it names nothing. Raises `AtlasError` for an unknown id."""
    match page:
        case "fact" | "lab" if "fact" in ids:
            fact = SimpleNamespace(**ask(queries.fact, atlas, ids["fact"]))
            name = fact_name(fact.subject, fact.object)
            return f"Lab: {name}" if page == "lab" else name, about_fact(fact)
        case "relation":
            for row in ask(queries.relations, atlas).itertuples(index=False):
                if row.relation_id == ids.get("relation"):
                    known = "" if is_missing(row.known_share) else f" · {row.known_share:.0%} known"
                    return f"{relation_name(row)} ({row.relation_id})", plural(row.n_facts, "fact") + known
        case "neuron" if "neuron" in ids:
            neuron = Neuron.parse(ids["neuron"])
            about = ask(queries.neuron, atlas, neuron.layer, neuron.neuron)
            facts = f"{plural(about['n_facts'], 'fact')} of {plural(about['n_relations'], 'relation')}"
            name = str(neuron) if is_missing(about["label"]) else f"{about['label']} ({neuron})"
            return name, joined(facts, promotes(about["promoted"], 6))
        case "compare" if ids.get("kind", "facts") in ("facts", "relations", "neurons", "atlases"):
            names = [name_of(atlas, ids.get("kind", "facts"), ids[each]) for each in "ab" if each in ids]
            return (f"Compare {' and '.join(names)}", PAGES["compare"][1]) if names else None
        case "search" if "q" in ids:
            return f"Search: {ids['q']}", PAGES["search"][1]
    return None


def name_of(atlas: Atlas, kind: str, identifier: str) -> str:
    """The name of what Compare's `kind` takes; raises `AtlasError` for what the atlas cannot have."""
    if kind in ("facts", "atlases"):
        fact = ask(queries.fact, atlas, identifier)
        return fact_name(fact["subject"], fact["object"])
    if kind == "relations":
        labels = ask(queries.relations, atlas).set_index("relation_id")["label"]
        if identifier not in labels:
            raise QueryError(f"There is no relation '{identifier}' in this atlas. Choose another.")
        label = labels[identifier]
        return identifier if is_missing(label) or not label else label
    return str(Neuron.parse(identifier))
