"""Every query says what a neuron pushes on its facts: below zero, what its value vector lowers.

In the sample, a neuron fires below zero where layer + index is odd.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

import atlas
from atlas import queries
from atlas.queries import comparison, selectivity, sharing
from atlas.store.manifest import read_manifest, record_files, write_manifest
from tests.sample_atlas import write_sample_atlas


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sample_atlas(tmp_path_factory.mktemp("sides") / "sample")


@pytest.fixture(scope="module")
def opened(folder):
    with atlas.open(folder) as found:
        yield found


QUERIES = {
    "neurons_of_fact": lambda a, x: queries.neurons_of_fact(a, x["fact"]),
    "rethreshold": lambda a, x: queries.rethreshold(a, x["fact"], t=0.2, p=0.5),
    "hub_neurons": lambda a, x: queries.hub_neurons(a),
    "relation_neurons": lambda a, x: sharing.relation_neurons(a, x["relation"]),
    "related_neurons": lambda a, x: selectivity.related_neurons(a, x["layer"], x["neuron"]),
    "neurons_of_facts": lambda a, x: comparison.neurons_of_facts(a, x["fact"], x["other"]),
    "neurons_of_relations": lambda a, x: comparison.neurons_of_relations(
        a, x["relation"], x["second"], least=0
    ),
}


def examples(a) -> dict:
    rows = a.query("SELECT DISTINCT fact_id, relation_id FROM knowledge_neurons ORDER BY ALL")
    relations = list(rows["relation_id"].unique())
    neuron = queries.neurons_of_fact(a, rows["fact_id"][0]).iloc[0]
    return {"fact": rows["fact_id"][0], "other": rows["fact_id"][1], "relation": relations[0],
            "second": relations[1], "layer": int(neuron.layer), "neuron": int(neuron.neuron)}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_what_a_neuron_promotes_follows_its_sign_on_its_facts(name, opened):
    rows = QUERIES[name](opened, examples(opened))
    assert len(set((rows["layer"] + rows["neuron"]) % 2)) == 2
    for row in rows.itertuples():
        below = (row.layer + row.neuron) % 2
        first = row.promoted[0]
        assert first["token"] == ("down0" if below else "up0")
        assert first["logit"] == 2.0
        assert row.suppressed[0] == {"token": "up0" if below else "down0", "logit": -2.0}


def test_a_neuron_s_page_says_on_which_side_it_fires(opened):
    for row in queries.hub_neurons(opened).itertuples():
        about = queries.neuron(opened, row.layer, row.neuron)
        assert (about["fires"] < 0) == bool((row.layer + row.neuron) % 2)
        assert about["promoted"][0]["token"] == ("down0" if about["fires"] < 0 else "up0")


def test_without_activations_the_value_vector_decides(folder, tmp_path):
    older = write_sample_atlas(tmp_path / "older")
    path = older / "knowledge_neurons.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["mean_activation"]), path)
    write_manifest(older, replace(read_manifest(older), files=record_files(older)))
    with atlas.open(older) as a:
        rows = queries.neurons_of_fact(a, examples(a)["fact"])
        assert {each[0]["token"] for each in rows["promoted"]} == {"up0"}
        assert rows["mean_activation"].isna().all()
