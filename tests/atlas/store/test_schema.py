"""The tables: every column is described, and rows that do not fit are refused."""

import pandas as pd
import pyarrow as pa
import pytest

from atlas.errors import StoreError
from atlas.store.schema import (
    REQUIRED_TABLES,
    SCHEMA_VERSION,
    SORT_KEYS,
    TABLES,
    conform,
    describe,
    difference,
    empty_table,
)
from tests.sample_atlas import sample_tables


def test_every_table_and_column_has_a_sentence():
    for table, schema in TABLES.items():
        assert describe(table).endswith(".")
        for name in schema.names:
            assert describe(table, name).endswith("."), (table, name)


def test_the_design_s_tables_are_there_and_sorted_by_columns_they_have():
    assert SCHEMA_VERSION == 3
    assert set(REQUIRED_TABLES) < set(TABLES)
    assert set(TABLES) == {
        "relations",
        "templates",
        "facts",
        "prompts",
        "attributions",
        "knowledge_neurons",
        "neurons",
        "activating_prompts",
        "lens",
        "effects",
        "control_neurons",
        "effect_summaries",
        "specificity",
        "generations",
        "edits",
        "erasures",
        "contexts",
        "statistics",
        "stability",
        "subsets",
        "methods",
        "synonymy",
        "grammar",
        "planted",
        "planted_summaries",
    }
    for table, keys in SORT_KEYS.items():
        assert set(keys) <= set(TABLES[table].names)


def test_scores_are_single_floats_and_neurons_small_integers():
    attributions = TABLES["attributions"]
    assert attributions.field("score").type == pa.float32()
    assert attributions.field("layer").type == pa.int16()
    assert attributions.field("neuron").type == pa.int32()
    assert TABLES["facts"].field("known").type == pa.bool_()
    assert TABLES["neurons"].field("promoted").type.value_type == pa.struct(
        [("token", pa.string()), ("logit", pa.float32())]
    )


@pytest.mark.parametrize("table", TABLES)
def test_sample_rows_fit_every_table(table):
    rows = sample_tables(8)[table]
    made = conform(table, rows)
    assert difference(table, made.schema) is None
    assert made.schema.equals(TABLES[table], check_metadata=True)
    assert made.num_rows == len(rows)
    keys = list(zip(*(made[key].to_pylist() for key in SORT_KEYS[table]), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_rows_come_from_lists_frames_and_tables_alike():
    rows = [{"relation_id": "P36", "label": "capital", "n_facts": 3, "n_templates": 2}]
    made = conform("relations", rows)
    assert conform("relations", pd.DataFrame(rows)).equals(made)
    assert conform("relations", pa.Table.from_pylist(rows)).equals(made)
    assert conform("relations", []).equals(empty_table("relations"))


def test_absent_columns_become_null_and_not_zero():
    made = conform("knowledge_neurons", [{"fact_id": "a", "relation_id": "P36", "layer": 1, "neuron": 2}])
    assert made["mean_score"].to_pylist() == [None]


def test_a_column_that_does_not_belong_is_refused():
    with pytest.raises(StoreError, match="has no column colour"):
        conform("facts", [{"fact_id": "a", "colour": "red"}])


@pytest.mark.parametrize("value", [40_000, "third", 1.5])
def test_a_value_that_does_not_fit_is_refused(value):
    with pytest.raises(StoreError, match="do not fit the table attributions"):
        conform("attributions", [{"fact_id": "a", "template_id": "t", "layer": value, "neuron": 1}])


def test_differences_are_named():
    schema = TABLES["relations"]
    assert difference("relations", schema.remove(0)) == "the column relation_id is missing"
    assert "colour does not belong" in difference("relations", schema.append(pa.field("colour", pa.string())))
    assert "has type int64" in difference("relations", schema.set(2, pa.field("n_facts", pa.int64())))
    assert "not in the order" in difference("relations", pa.schema(list(schema)[::-1]))
    tokens = pa.list_(pa.struct([("token", pa.string()), ("weight", pa.float32())]))
    neurons = TABLES["neurons"]
    place = neurons.names.index("promoted")
    assert "column promoted has type" in difference(
        "neurons", neurons.set(place, pa.field("promoted", tokens))
    )
