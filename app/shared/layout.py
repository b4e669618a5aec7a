"""What every page shares: menu, atlas picker, links, rows, empty states, errors, footer.

    atlas = current_atlas()                       # what the sidebar chose; StoreError when there is none
    fact_link("P36-France", "France → Paris")     # a link that keeps the atlas
    st.markdown(f"**{plain(subject)}**")          # text from data never becomes markdown
    with errors_as_sentences(): …                 # an AtlasError becomes a box, the rest of the page goes on

Permalinks are query parameters: `atlas` on every page, then `fact`, `relation`, `neuron`, or the search's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import limits, resources
from atlas.charts import look as charts
from atlas.errors import AtlasError, StoreError
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

NOT_MEASURED = "not measured in this atlas"

HOME = "home/page.py"
SEARCH = "search/page.py"
FACT = "fact/page.py"
RELATION = "relation/page.py"
NEURON = "neuron/page.py"
LAB = "lab/page.py"
COMPARE = "compare/page.py"
SQL = "sql/page.py"
ATLASES = "atlases/page.py"

FIGURE_WIDTH = 150

# Links to the page in view would look like menu entries that are switched on; less room above the title.
STYLE = """<style>
.stMainBlockContainer { padding-top: 3rem; padding-bottom: 2rem; }
.stMain [data-testid="stPageLink-NavLink"] { background: none; padding-left: 0; }
.stMain [data-testid="stPageLink-NavLink"] * { font-weight: 500; }
.stMain [data-testid="stPageLink-NavLink"]:hover { text-decoration: underline; }
</style>"""

# The folders of an absolute path, without its last name.
_FOLDERS = re.compile(r"(?<![\w/.:])/(?:[^\s/'\"]+/)+(?=[^\s/])")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=/@\"'])")


# Text ------------------------------------------------------------------------------------------------


def plain(text: Any) -> str:
    """Text from data or a visitor, so that markdown shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def is_missing(value: Any) -> bool:
    """Whether a value is null: None, NaN, NaT or pd.NA (a list is a value)."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def number(value: Any, form: str = ",.0f") -> str:
    """A number as text, or that it was not measured."""
    return NOT_MEASURED if is_missing(value) else format(value, form)


def percent(value: Any, digits: int = 0) -> str:
    """A share as a percentage, or that it was not measured."""
    return number(value, f".{digits}%")


def signed(change: float) -> str:
    """A relative change as a percentage with its sign; never -0 %."""
    rounded = round(100 * change)
    return f"{rounded:+d}%".replace("-", "−") if rounded else "±0%"


def tokens(pairs: Any, limit: int = 8) -> str:
    """The tokens of a promoted or suppressed list, spaces made visible."""
    if is_missing(pairs) or len(pairs) == 0:
        return ""
    return ", ".join(shown_token(pair["token"]) for pair in list(pairs)[:limit])


def shown_token(token: Any) -> str:
    """A token as people can read it: what is only white space is spelt out."""
    text = str(token)
    return text.strip() or repr(text)


# Errors and empty states ------------------------------------------------------------------------------


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Show an `AtlasError` as the sentence it is and go on after the block."""
    try:
        yield
    except AtlasError as error:
        st.error(plain(sentence(error)))


def sentence(error: object) -> str:
    """What an error says; to visitors of a demo without the host's folders."""
    with suppress(AtlasError):
        if not limits.current().demo_mode:
            return str(error)
    return _FOLDERS.sub("", str(error))


def nothing(sentence: str) -> None:
    """An empty state: what is not here, and what to do about it."""
    st.info(sentence, icon=":material/info:")


# The atlas in view -----------------------------------------------------------------------------------


def choose_atlas() -> None:
    """The picker in the sidebar; the URL's `atlas` wins over what was chosen before."""
    choices = resources.atlases()
    problem = resources.configured_error()
    if problem:
        st.warning(plain(sentence(problem)))
    if not choices:
        st.caption("There is no atlas to choose.")
        return
    asked = st.query_params.get("atlas") or st.session_state.get("atlas_id") or next(iter(choices))
    st.session_state["atlas_id"] = asked
    st.session_state["atlas_picker"] = asked if asked in choices else None
    st.selectbox(
        "Atlas",
        list(choices),
        index=0 if asked in choices else None,
        key="atlas_picker",
        on_change=_picked,
        placeholder="Choose an atlas",
        help="One atlas is one model asked one set of facts.",
    )


def _picked() -> None:
    if st.session_state["atlas_picker"]:
        st.session_state["atlas_id"] = st.query_params["atlas"] = st.session_state["atlas_picker"]


def current_atlas() -> Atlas:
    """The atlas this page is about; raises `StoreError` when there is none or it is broken."""
    choices = resources.atlases()
    if not choices:
        raise StoreError(
            "There is no atlas to show. Build one with `python -m build run` and start the app with "
            "KNOWLEDGE_NEURON_ATLAS set to its folder."
        )
    atlas_id = st.session_state.get("atlas_id") or next(iter(choices))
    if atlas_id not in choices:
        raise StoreError(f"There is no atlas '{atlas_id}' here. Choose one of: {', '.join(choices)}.")
    return resources.opened(choices[atlas_id])


def here(**parameters: Any) -> dict[str, str]:
    """Query parameters of a link inside this atlas."""
    atlas_id = st.session_state.get("atlas_id")
    wanted = {"atlas": atlas_id, **parameters}
    return {name: str(value) for name, value in wanted.items() if value not in (None, "")}


# Links -----------------------------------------------------------------------------------------------


def menu(pages: Sequence[Any]) -> None:
    """The menu; its links keep the atlas, which Streamlit's own would drop."""
    st.markdown("#### Knowledge Neuron Atlas")
    for page in pages:
        st.page_link(page, query_params=here() or None)


def _link(label: Any) -> str:
    return f":blue[{plain(label)}]"


def fact_link(fact_id: str, label: str) -> None:
    st.page_link(FACT, label=_link(label), query_params=here(fact=fact_id))


def relation_link(relation_id: str, label: str) -> None:
    st.page_link(RELATION, label=_link(label), query_params=here(relation=relation_id))


def search_link(label: str, **parameters: Any) -> None:
    """To Search; the parameters are those of its URL."""
    st.page_link(SEARCH, label=_link(label), query_params=here(**parameters))


def neuron_link(layer: int, index: int, *, icon: str | None = None) -> None:
    name = str(Neuron(int(layer), int(index)))
    st.page_link(NEURON, label=_link(name), icon=icon, query_params=here(neuron=name))


def neuron_links(rows: pd.DataFrame) -> None:
    """Links to neurons on one line; `rows` has layer and neuron."""
    with st.container(horizontal=True, gap="small"):
        for row in rows.itertuples(index=False):
            neuron_link(row.layer, row.neuron)


def lab_link(fact_id: str, label: str = "Open in the Lab") -> None:
    st.page_link(LAB, label=label, icon=":material/science:", query_params=here(fact=fact_id))


def compare_link(kind: str, a: str, b: str | None = None, label: str = "Compare") -> None:
    """To Compare; `kind` is facts, relations, neurons or atlases, `a` and `b` are ids (`L9.N2141`)."""
    st.page_link(
        COMPARE, label=label, icon=":material/compare_arrows:", query_params=here(kind=kind, a=a, b=b)
    )


def fact_name(subject: str, answer: str) -> str:
    return f"{subject} → {answer}"


# Parts of pages --------------------------------------------------------------------------------------


def draw(chart: Any, alternative: str) -> None:
    """A chart as wide as its place; `alternative` is what screen readers say."""
    st.altair_chart(charts.Ready(chart), width="stretch", alt=alternative)


def figures(values: Mapping[str, tuple[str, str]]) -> None:
    """A row of numbers: label → (number, what it is of)."""
    with st.container(horizontal=True, gap="small"):
        for label, (value, note) in values.items():
            with st.container(border=True, width=FIGURE_WIDTH, height="stretch", gap=None):
                st.caption(plain(label))
                st.markdown(f"#### {plain(value)}" if value != NOT_MEASURED else plain(value))
                st.caption(plain(note))


def known_badge(known: Any) -> None:
    """Whether the model knows a fact, in words and colour."""
    if is_missing(known):
        st.badge(f"known: {NOT_MEASURED}", color="gray")
    elif known:
        st.badge("known", icon=":material/check:", color="blue", help="Rank 1 on most of its prompts.")
    else:
        st.badge("not known", icon=":material/close:", color="orange", help="Rank 1 on at most half of them.")


def fact_rows(rows: pd.DataFrame, *, notes: Callable[[Any], str] | None = None) -> None:
    """A link to each fact and a line about it; `rows` has the columns of a search unless `notes` is given."""
    for row in rows.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            fact_link(row.fact_id, fact_name(row.subject, row.object))
            st.caption(plain((notes or about_fact)(row)))


def about_fact(row: Any, *, relation: bool = True) -> str:
    """Relation, known or not, probability and neurons of a row of a search, on one line."""
    parts = []
    if relation:
        parts.append(row.label if not is_missing(row.label) else row.relation_id)
    if not is_missing(row.known):
        parts.append("known" if row.known else "not known")
    if not is_missing(row.mean_probability):
        parts.append(f"probability {row.mean_probability:.2f}")
    parts.append(count(row.n_neurons, "neuron"))
    return " · ".join(parts)


def neuron_table(
    neurons: pd.DataFrame, *, key: str | None = None, act: Callable[[str], None] | None = None
) -> None:
    """Neurons of a fact or a relation as a table that can be sorted and downloaded.

    With `act` a row can be chosen: `act` changes the URL by its name. `key` has to say what it changes.
    """
    names = [str(Neuron(int(r.layer), int(r.neuron))) for r in neurons.itertuples()]
    rows = pd.DataFrame(
        {
            "neuron": names,
            **({"change": list(neurons["change"])} if "change" in neurons else {}),
            **{column: list(neurons[column]) for column in _NEURON_COLUMNS if column in neurons},
            "promoted": [tokens(pairs) or NOT_MEASURED for pairs in neurons["promoted"]],
            "suppressed": [tokens(pairs) or NOT_MEASURED for pairs in neurons["suppressed"]],
        }
    )
    measured = rows.dropna(axis="columns", how="all")
    st.dataframe(
        measured,
        hide_index=True,
        alt="Neurons with their scores and what their value vectors promote",
        key=key,
        on_select="ignore" if act is None else partial(_row_chosen, key, names, act),
        selection_mode="single-row",
        column_config={
            "neuron": st.column_config.TextColumn("Neuron", pinned=True),
            "change": st.column_config.TextColumn("Change", width="small"),
            **{name: column for name, column in _neuron_columns().items() if name in measured},
            "promoted": st.column_config.TextColumn("Promotes", width="large"),
            "suppressed": st.column_config.TextColumn("Suppresses", width="large"),
        },
    )
    absent = [name.replace("_", " ") for name in rows if name not in measured]
    if absent:
        st.caption(plain(f"{', '.join(absent)}: {NOT_MEASURED}"))


def _row_chosen(key: str, names: Sequence[str], act: Callable[[str], None]) -> None:
    chosen = (st.session_state.get(key) or {}).get("selection", {}).get("rows", [])
    if chosen and 0 <= chosen[0] < len(names):
        act(names[chosen[0]])


_NEURON_COLUMNS = (
    *("share", "relation_share", "mean_share", "mean_score", "max_score"),
    *("n_facts", "n_relations", "value_norm"),
)


def _neuron_columns() -> dict[str, Any]:
    number_column = st.column_config.NumberColumn
    return {
        "share": number_column("Share of prompts", format="percent"),
        "relation_share": number_column("Share of facts", format="percent"),
        "mean_share": number_column("Mean share of prompts", format="percent"),
        "mean_score": number_column("Mean score", format="%.4f"),
        "max_score": number_column("Largest score", format="%.4f"),
        "n_facts": number_column("Facts"),
        "n_relations": number_column("Relations"),
        "value_norm": number_column("Norm", format="%.2f", help="of the value vector"),
    }


def choose_a_fact() -> None:
    """The Fact page when the URL names none."""
    st.title("Fact", anchor=False)
    nothing("No fact is chosen. Search for one, or take a random one from Home.")
    st.page_link(SEARCH, label="Search all facts", icon=":material/search:", query_params=here())


def count(n: Any, noun: str) -> str:
    """`1 fact`, `2 facts`; a null count is said to be one."""
    if is_missing(n):
        return f"{noun}s {NOT_MEASURED}"
    return f"{int(n):,} {noun}{'' if int(n) == 1 else 's'}"


# Footer ----------------------------------------------------------------------------------------------


def footer() -> None:
    """What the numbers on the page were made from."""
    try:
        atlas = current_atlas()
    except AtlasError:
        return
    m = atlas.manifest
    weights = m.model.weights_sha256
    st.divider()
    parts = [
        f"Atlas {m.atlas_id}",
        f"model {m.model.name}" + (f" at {shortened(m.model.revision)}" if m.model.revision else ""),
        f"weights {weights[:12]}" if weights and weights[:12] not in (m.model.revision or "") else "",
        f"{m.method.name.replace('_', ' ')}, rule {m.method.rule or NOT_MEASURED}",
        f"tolerance {number(m.method.tolerance, 'g')}",
        f"data set {m.dataset.id}" + (f" ({m.dataset.hash[:12]})" if m.dataset.hash else ""),
        m.dataset.licence or "",
        f"code {m.code_version}" if m.code_version else "",
    ]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(plain(" · ".join(part for part in parts if part)))
        st.page_link(ATLASES, label="Its whole manifest", query_params=here())


def shortened(revision: str) -> str:
    """A revision as it is told apart: twelve digits of a commit, a name of a release as it is."""
    digits = revision.removeprefix("sha256:")
    return digits[:12] if re.fullmatch(r"[0-9a-f]{12,}", digits) else revision[:40]
