"""SQL: ask the atlas anything. `?sql=` is the query, `p_name=` the value of its `$name`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import streamlit as st

from app.shared import exports, layout, limits, links, resources
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, escape, plural, token_list
from app.sql.charts import answer_chart, left_out, suitable
from app.sql.experiments import EXPERIMENTS
from app.sql.gallery import GALLERY, Example
from app.sql.parameters import Parameter, for_the_shell, parameters
from app.sql.question import Question, Run
from app.sql.schema import not_measured, schema_pane, tables_and_views
from atlas.errors import AtlasError
from atlas.store.atlas import Atlas, bundled
from atlas.store.sql import Answer, PendingQuery

TEXT = "sql-text"
QUESTION = "sql-question"
RUNNING = "sql-running"

FIRST = """\
SELECT subject, object, label, mean_probability, n_neurons
FROM facts JOIN relations USING (relation_id)
ORDER BY n_neurons DESC
LIMIT 100"""

EDITOR_HEIGHT = 330
# Code in the typeface of code; cards that share a row's width; titles that look like the links they are.
STYLE = """<style>
.st-key-sql-text textarea { font: 14px/1.5 "Source Code Pro", monospace; }
[class*="st-key-sql-gallery"] {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr));
}
[class*="st-key-sql-gallery"] > div { width: 100%; }
[class*="st-key-sql-gallery"] button { justify-content: start; text-align: start; }
[class*="st-key-sql-gallery"] button p { font-weight: 600; }
</style>"""
# A query that is this quick needs no progress to be shown.
PATIENCE = 0.8
LOOK_AGAIN = 0.3


def main() -> None:
    st.title("SQL", anchor=False)
    st.html(STYLE)
    atlas = layout.current_atlas()
    allowed = limits.current()

    # Choose
    question = asked_now()
    left, right = st.columns([3, 2], gap="medium")
    with left:
        editor(allowed.sql_length)
        run_bar(allowed, question)
    with right:
        schema_pane(ask(tables_and_views, atlas), into=f".st-key-{TEXT} textarea")

    # Query and draw
    if question is not None:
        with layout.errors_as_sentences():
            outcome(atlas, question)
    gallery()


# The question ----------------------------------------------------------------------------------------


def asked_now() -> Question | None:
    """The question in the URL, else the session's last one; the editor shows it when it is new."""
    known = st.session_state.get(QUESTION)
    question = from_url() or known
    if question is not None and question != known:
        show(question)
    if question is not None:
        st.session_state[QUESTION] = question
        to_url(question)
    st.session_state.setdefault(TEXT, FIRST)
    return question


def from_url() -> Question | None:
    sql = st.query_params.get("sql")
    if not sql:
        return None
    sql = sql[: limits.current().sql_length]
    return Question.of(sql, {each.name: st.query_params.get(f"p_{each.name}") for each in parameters(sql)})


def to_url(question: Question) -> None:
    """Make the URL the question's; one that is too long for a link stays in the session only."""
    wanted = {f"p_{name}": text for name, text in question.texts} | {"sql": question.sql}
    if not question.fits_a_link:
        wanted = {}
    for name in list(st.query_params):
        if (name == "sql" or name.startswith("p_")) and name not in wanted:
            del st.query_params[name]
    for name, text in wanted.items():
        if st.query_params.get(name) != text:
            st.query_params[name] = text


def show(question: Question) -> None:
    """Put a question into the editor and its fields."""
    st.session_state[TEXT] = question.sql
    for each in parameters(question.sql):
        value = question.values[each.name]
        st.session_state[field_key(each)] = str(value).lower() if isinstance(value, bool) else value


def put(question: Question) -> None:
    """Ask a question from now on, again if it is the one that was asked."""
    stop()
    st.session_state[QUESTION] = question
    to_url(question)


def run() -> None:
    """The button: what stands in the editor becomes the question."""
    sql = st.session_state.get(TEXT) or ""
    values = {each.name: st.session_state.get(field_key(each)) for each in parameters(sql)}
    if sql.strip():
        put(Question.of(sql, {name: None if value is None else str(value) for name, value in values.items()}))


def choose(example: Example) -> None:
    question = Question.of(example.sql, example.values)
    show(question)
    put(question)


# The editor ------------------------------------------------------------------------------------------


def editor(longest: int) -> None:
    """The query's text and a field for each of its parameters."""
    sql = st.text_area(
        "Query",
        key=TEXT,
        height=EDITOR_HEIGHT,
        max_chars=longest,
        placeholder="SELECT …",
        label_visibility="collapsed",
        persist_state="session",
    )
    wanted = parameters(sql or "")
    if wanted:
        with st.container(horizontal=True, gap="small", key="sql-fields"):
            for each in wanted:
                field(each)


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


def run_bar(allowed: limits.Limits, question: Question | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.button("Run", type="primary", icon=":material/play_arrow:", shortcut="Ctrl+Enter", on_click=run)
        st.caption(
            "One SELECT in [DuckDB's SQL](https://duckdb.org/docs/stable/sql/introduction): "
            f"at most {allowed.sql_rows:,} rows, {allowed.sql_seconds:g} seconds "
            f"and {allowed.sql_memory_mb} MB. \\$name makes a field, \\$name::INTEGER one for numbers."
        )
    if question is not None and (st.session_state.get(TEXT) or "").strip() != question.sql.strip():
        st.caption(":material/edit: The text was changed since the answer below. Run it again.")
    if question is not None and not question.fits_a_link:
        st.caption(":material/link_off: This query is too long for a link. Keep its text.")


# The answer ------------------------------------------------------------------------------------------


def outcome(atlas: Atlas, question: Question) -> None:
    """The answer, or how far it is, or what went wrong."""
    asked = started(atlas, question)
    if not asked.wait(PATIENCE):
        progress(asked)
        return
    try:
        answer = asked.answer()
    except AtlasError as error:
        failure(str(error))
        return
    result(atlas, question, answer)
    shell(atlas, question)


def started(atlas: Atlas, question: Question) -> PendingQuery:
    """The question on its way through the sandbox; put there when it is new, or the atlas is another."""
    known: Run | None = st.session_state.get(RUNNING)
    if known is not None and (known.atlas_id, known.question) == (atlas.atlas_id, question):
        return known.asked
    stop()
    with st.spinner("Loading the tables …"):
        console = resources.sandbox(atlas)
    asked = console.start(question.sql, question.values)
    st.session_state[RUNNING] = Run(atlas.atlas_id, question, asked)
    return asked


def stop() -> None:
    """Give up the question that this visitor asked before."""
    known: Run | None = st.session_state.pop(RUNNING, None)
    if known is not None:
        known.asked.stop()


@st.fragment(run_every=LOOK_AGAIN)
def progress(asked: PendingQuery) -> None:
    if asked.done:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.button("Stop", icon=":material/stop_circle:", key="sql-stop", on_click=asked.stop)
        ahead = asked.ahead
        if ahead:
            waiting = "one query" if ahead == 1 else f"{ahead} queries"
            st.caption(f":material/hourglass_empty: Waiting in line: {waiting} before this one.")
        else:
            most = limits.current().sql_seconds
            text = (
                f"Running for {asked.seconds:.0f} of {most:g} seconds."
                if asked.seconds < most
                else "Stopping …"
            )
            st.caption(f":material/hourglass_top: {text}")


def failure(text: str) -> None:
    """An error's sentence, and below it the place in the query that DuckDB points at."""
    sentence, _, place = text.partition("\n")
    st.error(escape(layout.error_text(sentence)), icon=":material/error:")
    if place.strip():
        st.code(place.strip("\n"), language=None)


def result(atlas: Atlas, question: Question, answer: Answer) -> None:
    n_rows = answer.table.num_rows
    st.caption(
        f"{plural(n_rows, 'row')} · {plural(len(answer.columns), 'column')} · {1000 * answer.seconds:,.0f} ms"
    )
    if answer.truncated:
        st.warning(
            f"Cut at {n_rows:,} rows: there are more. Add a condition, aggregate, or use the DuckDB shell.",
            icon=":material/content_cut:",
        )
    if answer.columns == ("explain_key", "explain_value"):
        st.code("\n".join(text for _, text in answer.rows), language=None)
        return
    if n_rows == 0:
        absent = not_measured(atlas, question.sql)
        why = f"{', '.join(absent)}: {NOT_MEASURED}." if absent else "Loosen its conditions."
        layout.nothing(f"The query is right and finds no rows. {why}")
        return
    frame = answer.frame
    key = f"sql-rows-{zlib.crc32(repr((atlas.atlas_id, question)).encode()):08x}"
    table, picture = st.tabs(["Table", "Chart"]) if suitable(frame)[0] else (st.container(), None)
    with table:
        chosen = rows_table(frame, key)
        if chosen is not None:
            row_links(frame.iloc[chosen])
    if picture is not None:
        with picture:
            chart(frame, key)
    exports.offer("sql", answer=frame)


def rows_table(frame, key: str) -> int | None:
    """The rows; where they name facts or neurons one can be chosen, and is returned."""
    shown = frame.assign(
        **{
            name: frame[name].map(lambda pairs: token_list(pairs, None), na_action="ignore")
            for name in frame
            if has_tokens(frame[name])
        },
    )
    linkable = {"fact_id", "relation_id"} & set(frame) or {"layer", "neuron"} <= set(frame)
    event = st.dataframe(
        shown,
        key=key,
        hide_index=True,
        alt="The rows that the query gave",
        on_select="rerun" if linkable else "ignore",
        selection_mode="single-row",
    )
    rows = event.selection.rows if linkable else []
    if linkable and not rows:
        st.caption("Choose a row for links to its fact, relation or neuron.")
    return rows[0] if rows and rows[0] < len(frame) else None


def has_tokens(column) -> bool:
    """Whether a column holds lists of tokens with their logits, as neurons.promoted does."""
    first = next((value for value in column if isinstance(value, list) and value), [{}])[0]
    return isinstance(first, dict) and "token" in first


def row_links(row) -> None:
    """Links to what a row names."""
    with st.container(horizontal=True, gap="small"):
        if isinstance(row.get("fact_id"), str):
            links.fact_link(row["fact_id"], row["fact_id"])
        if isinstance(row.get("relation_id"), str):
            links.relation_link(row["relation_id"], row["relation_id"])
        try:
            links.neuron_link(int(row["layer"]), int(row["neuron"]))
        except (KeyError, TypeError, ValueError):
            return


def chart(frame, key: str) -> None:
    across, up = suitable(frame)
    left, right = st.columns(2)
    with left:
        x = st.selectbox("For each", across, format_func=", ".join, key=f"{key}-x")
    with right:
        y = st.selectbox("Show", up, key=f"{key}-y")
    layout.draw_chart(answer_chart(frame, x, y), f"{y} by {', '.join(x)}")
    if missing := left_out(frame, x):
        st.caption(f"{plural(missing, 'row')} more than the picture has room for.")


def shell(atlas: Atlas, question: Question) -> None:
    """The same question for a shell of one's own, with the values written into it."""
    with st.expander("Copy for the DuckDB shell", icon=":material/terminal:"):
        st.caption("In DuckDB 2.0 or newer, started in the project's folder.")
        # Where an atlas of the host lies is nobody's business.
        folder = f"atlas/data/{atlas.path.name}" if atlas.path in bundled().values() else "path/of/the/atlas"
        st.code(for_the_shell(question.sql, question.values, folder), language="sql", wrap_lines=True)


# The gallery -----------------------------------------------------------------------------------------


def gallery() -> None:
    st.subheader("Queries worth reading", anchor=False)
    cards("sql-gallery", GALLERY)
    st.subheader("… on the experiments", anchor=False)
    cards("sql-gallery-experiments", EXPERIMENTS)


def cards(key: str, examples: Sequence[Example]) -> None:
    with st.container(horizontal=True, gap="small", key=key):
        for number, example in enumerate(examples):
            with st.container(border=True, height="stretch", gap=None):
                st.button(
                    f":blue[{escape(example.title)}]",
                    key=f"example-{key}-{number}",
                    type="tertiary",
                    on_click=choose,
                    args=(example,),
                    wrap=True,
                )
                st.caption(escape(example.shows))


main()
