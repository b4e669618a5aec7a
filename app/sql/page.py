"""SQL: query the atlas. `?sql=` is the query, `p_name=` the value of its `$name`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import streamlit as st
from streamlit.column_config import NumberColumn

from app.shared import address, exports, layout, limits, links, resources, visitors
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, plural
from app.sql.charts import answer_chart, left_out, suitable
from app.sql.editor import TEXT, fill, query_editor
from app.sql.gallery import EXPERIMENTS, GALLERY, Example
from app.sql.parameters import MOST_FIELDS, Parameter, Query, parameters
from app.sql.rows import choice, drawable, shown
from app.sql.schema import not_measured, tables_and_views
from app.sql.shell import for_the_shell
from atlas.errors import AtlasError, QueryError
from atlas.store.atlas import Atlas, bundled
from atlas.store.sql import Answer, PendingQuery

QUERY = "sql-query"
# The visitor's query and its answer.
RUNNING = "sql"

N_FEATURED = 6
# What the page opens with.
FIRST = Query.of(GALLERY[0].sql, GALLERY[0].values)

# Seconds before progress is shown, and between two looks at it.
PATIENCE, LOOK_AGAIN = 0.8, 0.3


def main() -> None:
    st.title("SQL", anchor=False)
    atlas = layout.current_atlas()
    allowed = limits.current()

    # Choose
    query = current_query()
    show_featured()
    sql = query_editor(ask(tables_and_views, atlas), longest=allowed.sql_length)
    show_fields(sql)
    run_bar(allowed, query)

    # Query and draw
    with st.container(key="sql-answer"), layout.errors_as_sentences():
        show_outcome(atlas, query)
    show_gallery()


# The query -------------------------------------------------------------------------------------------


def current_query() -> Query:
    """The query in the URL, else the session's last one, else the first; a new one is put into the editor."""
    known = st.session_state.get(QUERY)
    query = from_url() or known or FIRST
    if query != known:
        fill_editor(query)
    st.session_state[QUERY] = query
    to_url(query)
    return query


def from_url() -> Query | None:
    sql = st.query_params.get("sql")
    if not sql:
        return None
    sql = sql[: limits.current().sql_length]
    return Query.of(sql, {each.name: st.query_params.get(f"p_{each.name}") for each in parameters(sql)})


def to_url(query: Query) -> None:
    """Put the query into the URL; the first, and one too long for a link, stay in the session only."""
    wanted = {f"p_{name}": text for name, text in query.texts} | {"sql": query.sql}
    if query == FIRST or not query.fits_a_link:
        wanted = {}
    stale = {name: None for name in st.query_params if name == "sql" or name.startswith("p_")}
    address.write(stale | wanted)


def fill_editor(query: Query) -> None:
    """Put a query into the editor and its fields."""
    fill(query.sql)
    values = query.values
    for each in parameters(query.sql):
        value = values[each.name]
        st.session_state[field_key(each)] = str(value).lower() if isinstance(value, bool) else value


def submit(query: Query) -> None:
    """Run a query from now on, again if it is the last one."""
    visitors.here().drop(RUNNING)
    st.session_state[QUERY] = query
    to_url(query)


def submit_editor() -> None:
    """The button: run what the editor holds."""
    sql = st.session_state.get(TEXT) or ""
    values = {each.name: st.session_state.get(field_key(each)) for each in parameters(sql)}
    if sql.strip():
        submit(Query.of(sql, {name: None if value is None else str(value) for name, value in values.items()}))


def submit_example(example: Example) -> None:
    query = Query.of(example.sql, example.values)
    fill_editor(query)
    submit(query)


# The editor ------------------------------------------------------------------------------------------


def show_featured() -> None:
    with st.container(key="sql-featured"):
        for number, example in enumerate(GALLERY[:N_FEATURED]):
            st.button(
                escape(example.title),
                key=f"featured-{number}",
                help=escape(example.shows),
                width="stretch",
                on_click=submit_example,
                args=(example,),
            )


def show_fields(sql: str) -> None:
    """A field for each of the query's parameters."""
    wanted = parameters(sql)
    if wanted:
        with st.container(horizontal=True, gap="small", key="sql-fields"):
            for each in wanted[:MOST_FIELDS]:
                field(each)
    if len(wanted) > MOST_FIELDS:
        st.caption(f"Only the first {MOST_FIELDS} of {len(wanted)} parameters have a field.")


def field_key(parameter: Parameter) -> str:
    return f"sql-value-{parameter.kind}-{parameter.name}"


def field(parameter: Parameter) -> None:
    label, key = escape(f"${parameter.name}"), field_key(parameter)
    match parameter.kind:
        case "whole":
            st.number_input(label, key=key, value=None, step=1, format="%d", width=160, placeholder="NULL")
        case "number":
            st.number_input(label, key=key, value=None, format="%g", width=160, placeholder="NULL")
        case "flag":
            st.selectbox(label, ["true", "false"], key=key, index=None, width=160, placeholder="NULL")
        case _:
            st.text_input(label, key=key, width=220, max_chars=500, placeholder="text")


def run_bar(allowed: limits.Limits, query: Query) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.button(
            "Run", type="primary", icon=":material/play_arrow:", shortcut="Ctrl+Enter", on_click=submit_editor
        )
        st.caption(
            "One SELECT in [DuckDB's SQL](https://duckdb.org/docs/stable/sql/introduction): "
            f"at most {allowed.sql_rows:,} rows, {allowed.sql_seconds:g} seconds "
            f"and {allowed.sql_memory_mb} MB. \\$name adds a field, \\$name::INTEGER one for numbers."
        )
    if (st.session_state.get(TEXT) or "").strip() != query.sql.strip():
        st.caption(":material/edit: The query has changed since the answer below. Run it again.")
    if not query.fits_a_link:
        st.caption(":material/link_off: This query is too long for a link. Save its text.")


# The answer ------------------------------------------------------------------------------------------


def show_outcome(atlas: Atlas, query: Query) -> None:
    """The answer, or the progress, or the error."""
    asked = start_query(atlas, query)
    with visitors.away():
        done = asked.wait(PATIENCE)
    if not done:
        show_query_progress(asked)
        return
    try:
        answer = asked.answer()
    except AtlasError as error:
        show_error(str(error))
        return
    show_answer(atlas, query, answer)
    show_shell_text(atlas, query)


def start_query(atlas: Atlas, query: Query) -> PendingQuery:
    """The query in the sandbox; started where it or the atlas is new."""
    visitor = visitors.here()
    if (known := visitor.held(RUNNING)) is not None and known[0] == (atlas.atlas_id, query):
        return known[1]
    visitor.drop(RUNNING)
    asked = resources.sandbox(atlas).start(query.sql, query.values)
    visitor.hold(RUNNING, ((atlas.atlas_id, query), asked), release=asked.stop)
    return asked


@st.fragment(run_every=LOOK_AGAIN)
def show_query_progress(asked: PendingQuery) -> None:
    if asked.done:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.button("Stop", icon=":material/stop_circle:", key="sql-stop", on_click=asked.stop)
        st.caption(progress(asked, limits.current().sql_seconds))


def progress(asked: PendingQuery, most: float) -> str:
    """Where a query is; `most`: the seconds that it may run."""
    if ahead := asked.ahead:
        waiting = "1 query" if ahead == 1 else f"{ahead} queries"
        text = f":material/hourglass_empty: Waiting for {waiting} ahead of this one."
        if asked.was_put_back:
            text += " Others go first because it takes long; then it starts again."
        return text
    if asked.is_loading:
        return ":material/hourglass_top: Loading the tables …"
    if asked.seconds < most:
        return f":material/hourglass_top: Running for {asked.seconds:.0f} of {most:g} seconds."
    return ":material/hourglass_top: Stopping …"


def show_error(text: str) -> None:
    """An error, and below it the place in the query that DuckDB points at."""
    sentence, _, place = text.partition("\n")
    st.error(escape(layout.error_text(sentence)), icon=":material/error:")
    if place.strip():
        st.code(place.strip("\n"), language=None)


def show_answer(atlas: Atlas, query: Query, answer: Answer) -> None:
    n_rows = answer.table.num_rows
    st.caption(
        f"{plural(n_rows, 'row')} · {plural(len(answer.columns), 'column')} · {1000 * answer.seconds:,.0f} ms"
    )
    if answer.truncated:
        st.warning(
            f"Only the first {n_rows:,} rows are shown. Add a condition, aggregate, or use the DuckDB shell.",
            icon=":material/content_cut:",
        )
    if answer.columns == ("explain_key", "explain_value"):
        st.code("\n".join(text for _, text in answer.rows), language=None)
        return
    if n_rows == 0:
        absent = not_measured(atlas, query.sql)
        why = f"{', '.join(absent)}: {NOT_MEASURED}." if absent else "Relax its conditions."
        layout.nothing(f"The query is valid and finds no rows. {why}")
        return
    rows = rows_of_visitor()
    show_rows(rows, f"sql-rows-{zlib.crc32(repr((atlas.atlas_id, query)).encode()):08x}")
    exports.offer("sql", answer=exports.Later(n_rows, rows))


def rows_of_visitor() -> Callable[[], pa.Table]:
    """What gives the rows for a file and a fragment; it holds none, so that they go with the visitor."""
    visitor = visitors.here()

    def rows() -> pa.Table:
        if (known := visitor.held(RUNNING)) is None:
            raise AtlasError("The answer is no longer here. Run the query again.")
        return known[1].answer().table

    return rows


@st.fragment
def show_rows(rows: Callable[[], pa.Table], key: str) -> None:
    """The rows as a table and, where it suits them, as a chart; a choice in either runs nothing else."""
    with layout.errors_as_sentences():
        answer = rows()
        frame = drawable(answer)
        table, picture = st.tabs(["Table", "Chart"]) if suitable(frame)[0] else (st.container(), None)
        with table:
            chosen = rows_table(answer, frame, key)
            if chosen is not None:
                row_links(choice(answer, chosen))
        if picture is not None:
            with picture:
                show_chart(frame, key)


def rows_table(table: pa.Table, frame: pd.DataFrame, key: str) -> int | None:
    """The rows; returns the chosen one, where they name facts, relations or neurons."""
    names = set(table.column_names)
    linkable = {"fact_id", "relation_id"} & names or {"layer", "neuron"} <= names
    event = st.dataframe(
        shown(table),
        key=key,
        hide_index=True,
        alt="Rows of the answer",
        # Streamlit's own format cuts small numbers, 4.2e-12 to 0.000000000004; this one cuts large ones.
        column_config={
            name: NumberColumn(format="%.6g")
            for name, column in frame.select_dtypes("float").items()
            if column.abs().max() < 1e5
        },
        on_select="rerun" if linkable else "ignore",
        selection_mode="single-row",
    )
    rows = event.selection.rows if linkable else []
    if linkable and not rows:
        st.caption("Choose a row for links to its fact, relation or neuron.")
    return rows[0] if rows and rows[0] < len(table) else None


def row_links(row: Mapping[str, Any]) -> None:
    """Links to the fact, relation and neuron of a row."""
    with st.container(horizontal=True, gap="small"):
        if isinstance(row.get("fact_id"), str):
            links.fact_link(row["fact_id"], row["fact_id"])
        if isinstance(row.get("relation_id"), str):
            links.relation_link(row["relation_id"], row["relation_id"])
        try:
            links.neuron_link(int(row["layer"]), int(row["neuron"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return


def show_chart(frame: pd.DataFrame, key: str) -> None:
    across, up = suitable(frame)
    left, right = st.columns(2)
    with left:
        x = st.selectbox("For each", across, format_func=", ".join, key=f"{key}-x")
    with right:
        y = st.selectbox("Show", up, key=f"{key}-y")
    layout.draw_chart(partial(answer_chart, frame, x, y), f"{y} by {', '.join(x)}")
    if missing := left_out(frame, x):
        st.caption(f"The chart leaves out {plural(missing, 'row')}.")


def show_shell_text(atlas: Atlas, query: Query) -> None:
    """The same query for a DuckDB shell, with the values written into it."""
    with st.expander("Copy for the DuckDB shell", icon=":material/terminal:"):
        # The folder of a host's own atlas is private.
        folder = f"atlas/data/{atlas.path.name}" if atlas.path in bundled().values() else "path/of/the/atlas"
        try:
            text = for_the_shell(query.sql, query.values, folder)
        except QueryError as error:
            st.caption(escape(str(error)))
            return
        st.caption("For DuckDB 2.0 or newer, started in the project's folder.")
        st.code(text, language="sql", wrap_lines=True)


# The gallery -----------------------------------------------------------------------------------------


def show_gallery() -> None:
    st.subheader("More queries", anchor=False)
    cards("sql-gallery", GALLERY[N_FEATURED:])
    st.subheader("Queries on the experiments", anchor=False)
    cards("sql-gallery-experiments", EXPERIMENTS)


def cards(key: str, examples: Sequence[Example]) -> None:
    with st.container(horizontal=True, gap="small", key=key):
        for number, example in enumerate(examples):
            with st.container(border=True, height="stretch", gap=None):
                st.button(
                    f":blue[{escape(example.title)}]",
                    key=f"example-{key}-{number}",
                    type="tertiary",
                    on_click=submit_example,
                    args=(example,),
                    wrap=True,
                )
                st.caption(escape(example.shows))


main()
