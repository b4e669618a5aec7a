"""The SQL page: its parameters, its gallery on both atlases, and the page itself as Streamlit runs it."""

from __future__ import annotations

import csv
import io
import json
import time
import tracemalloc

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from app.shared import exports, limits
from app.shared.words import token_list
from app.sql.charts import MOST_LABELS, answer_chart, left_out, suitable
from app.sql.gallery import EXPERIMENTS, GALLERY
from app.sql.parameters import MOST_FIELDS, Parameter, parameters
from app.sql.rows import choice, drawable, shown
from app.sql.schema import not_measured, quoted, tables_and_views
from atlas.rows import tokens_of
from atlas.store.atlas import Atlas, bundled
from atlas.store.schema import DERIVED_VIEWS, TABLES
from atlas.store.sql import frame_of
from tests.app.pages import page, press, words
from tests.sample_atlas import OPTIONAL_TABLES, write_sample_atlas

EXAMPLES = (*GALLERY, *EXPERIMENTS)


# Parameters ------------------------------------------------------------------------------------------

TEXTS = [
    "SELECT 1",
    "SELECT $a, $b, $a",
    "SELECT $a::INTEGER + $b",
    "SELECT '$no', $yes",
    "SELECT 'it''s $no' || $yes",
    'SELECT "a$no" FROM (SELECT 1 AS "a$no") WHERE 1 = $yes',
    "SELECT 1 -- $no\n + $yes",
    "SELECT 1 /* $no */ + $yes",
    "SELECT 1 /* a /* $no */ $no */ + $yes",
    "SELECT 1 /*/**/ $no /**/*/ + $yes",
    "SELECT 1 /* '$no */ + $yes || '",
    "SELECT $$ $no $$, $yes",
    "SELECT $tag$ $no $$ 'x $tag$, $yes",
    "SELECT E'it\\'s $no', $yes",
    "SELECT e'\\\\', $yes",
    "SELECT '--', $a, '/*', $b, '*/'",
    "SELECT x.y FROM (SELECT {'y': $a} AS x)",
    "SELECT $1, $2",
    "SELECT a$b FROM (SELECT 1 AS a$b)",
    "SELECT $Über, $名",
    "SELECT $a,$b; SELECT $c",
    "SELECT [1, 2, 3][$a:$b]",
    "SELECT x'24'||$yes, '$no'",
    "SELECT -$a, $b- -$a",
    "",
    "'",
    '"',
    "$",
    "$$",
    "$a$",
    "/*",
    "--",
    "SELECT '",
]


def theirs(sql: str) -> set[str] | None:
    try:
        return {n.lower() for s in duckdb.extract_statements(sql) for n in s.named_parameters}
    except (duckdb.Error, ValueError):
        return None


@pytest.mark.parametrize("sql", TEXTS)
def test_parameters_are_those_that_duckdb_finds(sql):
    found = {each.name.lower() for each in parameters(sql)}
    expected = theirs(sql)
    if expected is not None:
        assert found == expected


def test_duckdb_understands_most_of_the_queries():
    assert sum(theirs(sql) is not None for sql in TEXTS) >= 20


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("SELECT $a::INTEGER", ["whole"]),
        ("SELECT $a :: bigint", ["whole"]),
        ("SELECT CAST( $a AS SMALLINT)", ["whole"]),
        ("SELECT $a::DOUBLE, CAST($b AS decimal(9, 2))", ["number", "number"]),
        ("SELECT $a::BOOL", ["flag"]),
        ("SELECT $a::VARCHAR, $b, $c::DATE", ["text", "text", "text"]),
        ("SELECT $a, $A::INTEGER", ["whole"]),
        ("SELECT $a /* ::INTEGER */", ["text"]),
    ],
)
def test_a_cast_says_what_kind_of_field_a_parameter_gets(sql, kinds):
    assert [each.kind for each in parameters(sql)] == kinds


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("whole", "9", 9),
        ("whole", "-9", -9),
        ("whole", "9.5", None),
        ("whole", "9" * 30, None),
        ("whole", "9" * 10_000, None),
        ("whole", None, None),
        ("number", "0.4", 0.4),
        ("number", "1e3", 1000.0),
        ("number", "inf", None),
        ("number", "nan", None),
        ("flag", "True", True),
        ("flag", "no", None),
        ("text", None, ""),
        ("text", "'; DROP TABLE facts", "'; DROP TABLE facts"),
    ],
)
def test_a_text_of_the_url_becomes_a_value_of_its_kind_or_null(kind, text, value):
    assert Parameter("a", kind).value(text) == value


# The gallery -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["starter-pocket-bert", "starter-smollm2-135m"])
def committed(request):
    """Each committed atlas: its sandbox and its folder."""
    folder = bundled()[request.param]
    with Atlas(folder) as atlas, atlas.sandboxed(seconds=60) as console:
        yield console, folder


def values_of(example) -> dict:
    return {each.name: each.value(example.values.get(each.name)) for each in parameters(example.sql)}


def test_the_gallery_has_queries_worth_reading():
    assert len(GALLERY) >= 12
    assert len({example.title for example in EXAMPLES}) == len(EXAMPLES)
    for example in EXAMPLES:
        assert example.shows.endswith((".", "?"))
        assert set(example.values) <= {each.name for each in parameters(example.sql)}


def test_the_gallery_uses_every_table():
    every = " ".join(example.sql for example in EXAMPLES)
    assert [name for name in TABLES if name not in every] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_every_query_of_the_gallery_finds_rows_in_both_atlases(example, committed):
    console, folder = committed
    answer = console.query(example.sql, values_of(example))
    with Atlas(folder) as atlas:
        if not_measured(atlas, example.sql):
            assert answer.table.num_rows == 0
            return
    assert answer.table.num_rows > 0
    assert not answer.truncated
    assert answer.frame.notna().any().all(), "a column is empty"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_the_gallery_runs_on_an_atlas_that_lacks_tables(example, lacking):
    assert lacking.query(example.sql, values_of(example)).columns


@pytest.mark.parametrize("example", EXPERIMENTS, ids=lambda example: example.title)
def test_every_query_on_experiments_finds_rows_where_all_were_made(example, sample):
    with Atlas(sample) as atlas, atlas.sandboxed(seconds=60) as console:
        assert not_measured(atlas, example.sql) == []
        answer = console.query(example.sql, values_of(example))
    assert answer.table.num_rows > 0
    assert answer.frame.notna().any().all(), "a column is empty"


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    folder = write_sample_atlas(tmp_path_factory.mktemp("atlases") / "published", leave_out=OPTIONAL_TABLES)
    with Atlas(folder) as atlas, atlas.sandboxed(seconds=60) as console:
        yield console


# The schema ------------------------------------------------------------------------------------------


def test_every_table_and_view_is_described_column_by_column(sample):
    with Atlas(sample) as atlas:
        shown = {table["name"]: table for table in tables_and_views(atlas)}
        assert set(shown) == {*TABLES, *DERIVED_VIEWS}
        for name, table in shown.items():
            described = atlas.query(f"DESCRIBE {name}")
            assert [c["name"] for c in table["columns"]] == [quoted(n) for n in described["column_name"]]
            assert table["sentence"].endswith(".")
            for column, kind in zip(table["columns"], described["column_type"], strict=True):
                assert column["type"] in ("", kind)
                assert column["sentence"].endswith((".", ";"))
            # Every name can be inserted as it stands.
            names = ", ".join(column["name"] for column in table["columns"])
            atlas.query(f"SELECT {names} FROM {name} LIMIT 1")


def test_the_schema_says_what_was_not_measured(tmp_path):
    folder = write_sample_atlas(tmp_path / "a", leave_out=("effects",))
    with Atlas(folder) as atlas:
        kinds = {table["name"]: table["kind"] for table in tables_and_views(atlas)}
    assert kinds["effects"] == "not measured in this atlas"
    assert kinds["facts"] == kinds["activating_prompts"] == ""
    assert kinds["effect_summaries"] == kinds["methods"] == "experiment"
    assert kinds["hub_neurons"] == "view"


@pytest.mark.parametrize(
    ("sql", "absent"),
    [
        ("SELECT * FROM effects", ["effects"]),
        ('select * from facts f, "effects" AS e, edits', ["effects", "edits"]),
        ("SELECT * FROM facts JOIN effects USING (fact_id)", ["effects"]),
        ("SELECT effects FROM (SELECT 1 AS effects, 2 AS edits) ORDER BY effects, edits", []),
        ("SELECT * FROM facts ORDER BY subject, effects", []),
    ],
)
def test_a_hint_names_the_tables_that_a_query_reads(sql, absent, tmp_path):
    with Atlas(write_sample_atlas(tmp_path / "a", leave_out=("effects", "edits"))) as atlas:
        assert not_measured(atlas, sql) == absent


# Pictures and exports --------------------------------------------------------------------------------


def test_a_picture_is_offered_for_a_label_and_a_number():
    frame = pd.DataFrame({"label": ["a", "b", "c"], "n": [1, 2, 3], "share": [0.1, 0.2, 0.3]})
    across, up = suitable(frame)
    assert (across[0], up) == (("label",), ["share", "n"])
    chart = answer_chart(frame, across[0], up[0]).to_dict()
    assert chart["mark"]["type"] == "bar"
    assert chart["title"] == "share by label"
    assert [field["title"] for field in chart["encoding"]["tooltip"]] == ["label", "share"]


def test_labels_that_repeat_name_a_row_together():
    frame = pd.DataFrame({"what": ["x", "x", "y"], "group": ["a", "b", "a"], "n": [1, 2, 3]})
    across, up = suitable(frame)
    assert across[0] == ("what", "group")
    chart = answer_chart(frame, across[0], up[0]).to_dict()
    assert chart["mark"]["type"] == "bar"
    drawn = next(iter(chart["datasets"].values()))
    assert [row["x"] for row in drawn] == ["x, a", "x, b", "y, a"]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": ["x", "y"]}),
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"a": ["x"], "b": [1]}),
        pd.DataFrame({"a": [[1], [2]], "b": [1, 2]}),
        pd.DataFrame({"a": [True, False], "b": ["x", "y"]}),
        pd.DataFrame(),
    ],
)
def test_no_picture_is_offered_where_none_suits(frame):
    assert suitable(frame) == ([], [])


def test_two_numbers_are_points_and_repeated_labels_are_ticks():
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": [1.0, 2.0, 3.0], "c": ["x", "x", "y"]})
    assert answer_chart(frame, ["a"], "b").to_dict()["mark"]["type"] == "circle"
    assert answer_chart(frame, ["c"], "b").to_dict()["mark"]["type"] == "tick"


def test_a_picture_says_how_many_rows_it_leaves_out():
    frame = pd.DataFrame({"a": [str(n) for n in range(MOST_LABELS + 5)], "b": range(MOST_LABELS + 5)})
    assert left_out(frame, ["a"]) == 5
    assert left_out(frame.head(3), ["a"]) == 0


def test_names_of_columns_are_no_expressions_of_the_chart():
    frame = pd.DataFrame({"a.b[0]": ["x", "y"], "1 + datum.x": [1, 2]})
    encoding = answer_chart(frame, ["a.b[0]"], "1 + datum.x").to_dict()["encoding"]
    assert {encoding["x"]["field"], encoding["y"]["field"]} == {"x", "y"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_every_picture_of_the_gallery_can_be_drawn(example, committed):
    frame = committed[0].query(example.sql, values_of(example)).frame
    across, up = suitable(frame)
    for x in across:
        for y in up:
            assert answer_chart(frame, x, y).to_dict()["datasets"]


def test_answers_can_be_exported_with_lists_and_nulls(committed):
    answer = committed[0].query("SELECT promoted, NULL AS n, known FROM neurons, facts LIMIT 3")
    frame = answer.frame
    written = {ending: make(answer.table) for ending, (_, make, _) in exports.FORMATS.items()}
    promoted = [[pair["token"] for pair in pairs] for pairs in frame["promoted"]]
    read = {
        "csv": [json.loads(row["promoted"]) for row in csv.DictReader(io.StringIO(written["csv"][1:]))],
        "json": [row["promoted"] for row in json.loads(written["json"])],
        "parquet": pd.read_parquet(io.BytesIO(written["parquet"]))["promoted"],
    }
    for lists in read.values():
        assert [[pair["token"] for pair in pairs] for pairs in lists] == promoted


ROWS = [
    *(example.sql for example in EXAMPLES if not parameters(example.sql)),
    "SELECT * FROM neurons LIMIT 500",
    "SELECT * EXCLUDE (tokens, activations) FROM activating_prompts LIMIT 500",
    "SELECT * FROM prompts, (SELECT 0.50::DECIMAL(9, 2) AS half, NULL AS n, -0.0 AS z) LIMIT 500",
    "SELECT [{'a': 1::UTINYINT, 'b': [true, NULL], 'c': 0.1::FLOAT}, NULL] AS x, [[1.5::FLOAT]] AS y",
    "SELECT {'a': {'b': ['x', NULL]}} AS s, 9007199254740993 AS long, 0.1::FLOAT AS f FROM range(450)",
    "SELECT subject FROM facts WHERE false",
]


@pytest.mark.parametrize("ending", exports.FORMATS)
@pytest.mark.parametrize("sql", ROWS, ids=lambda sql: sql[:60])
def test_a_file_has_the_same_bytes_from_arrow_as_from_pandas(sql, ending, committed):
    table = committed[0].query(sql).table
    _, make, _ = exports.FORMATS[ending]
    assert make(table) == make(frame_of(table))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT promoted, suppressed, layer FROM neurons LIMIT 300",
        "SELECT [{'token': ' a\n', 'logit': x}, {'token': ' ', 'logit': 0}] AS a FROM range(3) AS t(x)",
        "SELECT * FROM (VALUES ([{'token': 'a'}, {'token': 'b'}]), (NULL), ([]), ([{'token': 'c'}])) AS t(x)",
        "SELECT [{'token': 'a'}, NULL] AS a, [{'token': NULL::VARCHAR}] AS b, [{'token': 1}] AS c, [1] AS d",
        "SELECT NULL::STRUCT(token VARCHAR)[] AS a, []::STRUCT(token VARCHAR)[] AS b, {'token': 'x'} AS c",
        "SELECT 'text' AS a, 1 AS b, NULL AS c, [['x']] AS d",
    ],
    ids=lambda sql: sql[:60],
)
def test_lists_of_tokens_are_shown_as_text_and_other_values_as_they_are(sql, committed):
    answer = committed[0].query(sql)
    table = shown(answer.table)
    assert table.column_names == list(answer.columns)
    for before, after in zip(answer.table.columns, table.columns, strict=True):
        values = before.to_pylist()
        lists = [value for value in values if isinstance(value, list) and value]
        if lists and all(tokens_of(value) is not None for value in lists):
            values = [None if value is None else token_list(value, None) for value in values]
        assert after.to_pylist() == values


def test_the_page_makes_no_objects_of_what_is_in_lists():
    inside = pa.array([{"a": True, "b": n} for n in range(1_000)]).take(pa.array([*range(1_000)] * 160))
    rows = pa.table({
        "x": pa.ListArray.from_arrays(pa.array([0, *range(80_000, 160_001, 20)], pa.int32()), inside),
        "fact_id": [str(n) for n in range(4_001)],
    })  # fmt: skip
    tracemalloc.start()
    try:
        assert shown(rows).column_names == ["x", "fact_id"]
        assert list(drawable(rows)) == ["fact_id"]
        assert choice(rows, 7) == {"fact_id": "7"}
        _, seen = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        exports.FORMATS["parquet"][1](rows)
        _, written = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The 160,000 structs take 40 MB as Python's.
    assert max(seen, written) < 8_000_000


def test_every_number_of_an_atlas_survives_every_export(committed):
    frame = committed[0].query("SELECT p_after, rank_after FROM effects ORDER BY p_after LIMIT 2000").frame
    assert frame["p_after"].min() < 1e-8
    written = {ending: make(frame) for ending, (_, make, _) in exports.FORMATS.items()}
    assert written["csv"].startswith("\ufeffp_after,rank_after\n")
    read = {
        "csv": pd.read_csv(io.StringIO(written["csv"][1:]), float_precision="round_trip"),
        "json": pd.DataFrame(json.loads(written["json"])),
        "parquet": pd.read_parquet(io.BytesIO(written["parquet"])),
    }
    for name, column in frame.items():
        for each in read.values():
            assert each[name].tolist() == column.tolist()


def test_exports_hold_what_duckdb_prints(committed):
    sql = (
        "SELECT 340282366920938463463374607431768211455::UHUGEINT AS huge, DATE '0044-03-15 (BC)' AS day, "
        "[TIME '24:00:00'] AS times, 0.50::DECIMAL(9, 2) AS half, '=1+1' AS sum"
    )
    frame = committed[0].query(sql).frame
    values = ["340282366920938463463374607431768211455", "0044-03-15 (BC)"]
    assert [*json.loads(exports.FORMATS["json"][1](frame))[0].values()] == [
        *values,
        ["24:00:00"],
        0.5,
        "=1+1",
    ]
    (row,) = csv.DictReader(io.StringIO(exports.FORMATS["csv"][1](frame)[1:]))
    assert [*row.values()] == [*values, '["24:00:00"]', "0.50", "'=1+1"]
    (kept,) = pd.read_parquet(io.BytesIO(exports.FORMATS["parquet"][1](frame))).to_dict("records")
    assert [kept["huge"], kept["day"], kept["times"].tolist(), str(kept["half"]), kept["sum"]] == [
        *values, ["24:00:00"], "0.50", "=1+1"
    ]  # fmt: skip


# The page --------------------------------------------------------------------------------------------


def sql_page(**parameters: str) -> AppTest:
    return settled(page("sql", **parameters))


def settled(app: AppTest) -> AppTest:
    """The page once its query is done; a browser looks again by itself."""
    begun = time.monotonic()
    while any(button.key == "sql-stop" for button in app.button) and time.monotonic() < begun + 60:
        app.run()
    assert not app.exception
    return app


def press_and_wait(app: AppTest, label: str = "Run") -> AppTest:
    return settled(press(app, label))


def write(app: AppTest, sql: str) -> AppTest:
    app.text_area(key="sql-text").input(sql)
    return app


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT [{'token': 'a'}, NULL] AS x",
        "SELECT [{'token': NULL}] AS x, 'inf'::DOUBLE AS layer, 1 AS neuron",
        "SELECT * FROM (VALUES ([{'token': 'a'}]), ([NULL]), (NULL), ([])) AS t(x)",
        "-- note\nEXPLAIN SELECT 1",
        "PIVOT facts ON known USING count(*)",
    ],
)
def test_the_page_shows_the_answer_to_any_query_that_reads(sql):
    app = press_and_wait(write(sql_page(), sql))
    assert not app.error
    assert len(app.dataframe) + sum(block.value.startswith(("┌", "╭")) for block in app.code) >= 1


def test_the_page_begins_with_a_query_that_runs(only_sample):
    app = sql_page()
    assert not app.error
    assert list(app.dataframe[0].value["facts"]) == [15] * 4
    assert app.text_area(key="sql-text").value == GALLERY[0].sql
    assert "sql" not in app.query_params


def test_six_queries_are_offered_first(only_sample):
    app = sql_page()
    featured = [button for button in app.button if (button.key or "").startswith("featured")]
    assert len(featured) == 6
    press_and_wait(app, GALLERY[4].title)
    assert app.text_area(key="sql-text").value == app.query_params["sql"] == GALLERY[4].sql
    assert "layer" in app.dataframe[0].value


def test_a_query_is_restored_from_its_url_in_a_fresh_session(only_sample):
    first = press_and_wait(write(sql_page(), "SELECT subject FROM facts WHERE known ORDER BY ALL"))
    assert first.query_params["sql"] == "SELECT subject FROM facts WHERE known ORDER BY ALL"
    again = sql_page(sql=first.query_params["sql"])
    assert again.text_area(key="sql-text").value == "SELECT subject FROM facts WHERE known ORDER BY ALL"
    assert again.dataframe[0].value.equals(first.dataframe[0].value)
    assert len(again.dataframe[0].value) == 48


def test_parameters_are_fields_whose_values_are_in_the_url(only_sample):
    sql = (
        "SELECT fact_id FROM facts "
        "WHERE relation_id = $relation AND n_neurons >= $least::INTEGER AND known = $k::BOOL"
    )
    app = write(sql_page(), sql).run()
    app.text_input(key="sql-value-text-relation").input("P36")
    app.number_input(key="sql-value-whole-least").set_value(3)
    app.selectbox(key="sql-value-flag-k").select("true")
    press_and_wait(app)
    found = set(app.dataframe[0].value["fact_id"])
    with Atlas(only_sample) as atlas:
        expected = atlas.query(
            "SELECT fact_id FROM facts WHERE relation_id = 'P36' AND n_neurons >= 3 AND known"
        )
    assert found == set(expected["fact_id"])
    assert found
    assert {name: app.query_params[name] for name in ("p_relation", "p_least", "p_k")} == {
        "p_relation": "P36",
        "p_least": "3",
        "p_k": "true",
    }
    again = sql_page(sql=sql, p_relation="P36", p_least="3", p_k="true")
    assert set(again.dataframe[0].value["fact_id"]) == found
    assert again.number_input(key="sql-value-whole-least").value == 3
    assert again.selectbox(key="sql-value-flag-k").value == "true"


def test_a_query_of_a_thousand_parameters_gets_a_few_fields(only_sample):
    sql = "SELECT " + ", ".join(f"$v{k}::INTEGER" for k in range(1000))
    found = sql_page(sql=sql)
    assert len(found.number_input) == MOST_FIELDS
    assert f"Only the first {MOST_FIELDS} of 1000 parameters have a field." in words(found)


def test_parameters_of_the_query_before_leave_the_url(only_sample):
    app = sql_page(sql="SELECT $a AS a", p_a="x", p_b="y")
    assert list(app.dataframe[0].value["a"]) == ["x"]
    assert "p_b" not in app.query_params
    press_and_wait(write(app, "SELECT 1 AS one"))
    assert "p_a" not in app.query_params


def test_an_error_keeps_the_query_and_shows_where(only_sample):
    sql = "SELECT subject FORM facts"
    app = sql_page(sql=sql)
    assert "The query failed. Parser Error" in words(app)
    assert any("^" in code.value for code in app.code)
    assert app.text_area(key="sql-text").value == sql
    assert app.query_params["sql"] == sql
    press_and_wait(write(app, "SELECT subject FROM facts"))
    assert not app.error
    assert len(app.dataframe[0].value) == 60


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE facts",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT 1; SELECT 2",
        "SELECT <script>alert(1)</script> **x** [a](http://b)",
        "SELECT reservoir_quantile(x, 0.5, 1000000000) FROM range(1000000) AS t(x)",
    ],
)
def test_what_is_refused_is_a_sentence_and_the_page_goes_on(only_sample, sql):
    app = sql_page(sql=sql)
    assert len(app.error) == 1
    assert "root:" not in words(app)
    assert "More queries" in words(app)
    press_and_wait(write(app, "SELECT count(*) AS n FROM facts"))
    assert list(app.dataframe[0].value["n"]) == [60]


def test_a_truncated_answer_says_so(only_sample, set_limits):
    set_limits("sql_rows = 10")
    app = sql_page(sql="SELECT * FROM facts")
    assert "Only the first 10 rows are shown." in words(app)
    assert len(app.dataframe[0].value) == 10


def test_a_query_without_rows_says_so(only_sample):
    assert "finds no rows. Relax" in words(sql_page(sql="SELECT * FROM facts WHERE false"))


def test_a_query_about_what_was_not_measured_names_the_table(another_atlas):
    another_atlas(leave_out=("edits", "erasures"))
    app = press_and_wait(sql_page(), "How well do edits work?")
    assert "finds no rows. edits: not measured in this atlas." in words(app)


def test_a_plan_is_shown_as_text(only_sample):
    app = sql_page(sql="EXPLAIN SELECT * FROM facts")
    assert any("facts" in code.value and "─" in code.value for code in app.code)
    assert len(app.dataframe) == 0


def test_a_long_query_can_be_stopped(only_sample):
    app = page("sql", sql="SELECT sum(x) FROM range(1000000000000) AS t(x)")
    assert "Running for" in words(app)
    app.button(key="sql-stop").click().run()
    settled(app)
    assert "The query was stopped." in words(app)


def test_another_query_of_the_same_visitor_stops_the_one_before(only_sample):
    app = page("sql", sql="SELECT sum(x) FROM range(1000000000000) AS t(x)")
    begun = time.monotonic()
    press_and_wait(write(app, "SELECT 7 AS seven"))
    assert list(app.dataframe[0].value["seven"]) == [7]
    assert time.monotonic() - begun < limits.current().sql_seconds


def test_a_click_on_the_gallery_writes_and_runs_its_query(only_sample):
    example = next(each for each in GALLERY if each.title == "Other thresholds")
    app = press_and_wait(sql_page(), example.title)
    assert app.text_area(key="sql-text").value == example.sql
    assert app.number_input(key="sql-value-number-threshold").value == 0.4
    assert app.query_params["p_share"] == "0.7"
    assert len(app.dataframe[0].value) == 4
    app.number_input(key="sql-value-number-threshold").set_value(0.9)
    before = list(app.dataframe[0].value["mean_neurons"])
    press_and_wait(app)
    assert sum(app.dataframe[0].value["mean_neurons"]) < sum(before)


def test_the_query_and_its_answer_are_there_when_a_visitor_comes_back(only_sample):
    app = press_and_wait(write(sql_page(), "SELECT 5 AS five"))
    app.switch_page("home/page.py")
    app.query_params.clear()
    app.run()
    app.switch_page("sql/page.py")
    app.query_params.clear()
    settled(app.run())
    assert app.text_area(key="sql-text").value == "SELECT 5 AS five"
    assert list(app.dataframe[0].value["five"]) == [5]
    assert app.query_params["sql"] == "SELECT 5 AS five"


def test_a_query_that_is_too_long_for_a_link_runs_all_the_same(only_sample):
    app = press_and_wait(write(sql_page(), "SELECT 1 AS one -- " + "x" * 8_000))
    assert list(app.dataframe[0].value["one"]) == [1]
    assert "sql" not in app.query_params
    assert "too long for a link" in words(app)


def test_the_text_for_the_shell_names_no_folder_of_the_host(only_sample):
    app = sql_page(sql="SELECT $a AS a", p_a="it's")
    code = next(each.value for each in app.code if ".read" in each.value)
    assert "SELECT 'it''s' AS a" in code
    assert str(only_sample.parent) not in code


def test_a_query_that_a_shell_could_misread_is_not_offered_for_one(only_sample):
    app = sql_page(sql="SELECT 1 AS a$b")
    assert not any(".read" in each.value for each in app.code)
    assert "Shells differ in how they read U+0024 outside quotes" in words(app)


def test_a_query_changed_since_its_answer_is_pointed_out(only_sample):
    app = sql_page(sql="SELECT 1 AS one")
    assert "has changed since" not in words(app)
    write(app, "SELECT 2 AS two").run()
    assert "has changed since" in words(app)
    assert list(app.dataframe[0].value["one"]) == [1]


def test_a_page_that_runs_again_asks_nothing_again(only_sample):
    app = sql_page(sql="SELECT uuid() AS id")
    once = list(app.dataframe[0].value["id"])
    app.run()
    assert list(app.dataframe[0].value["id"]) == once
    press_and_wait(app)
    assert list(app.dataframe[0].value["id"]) != once
