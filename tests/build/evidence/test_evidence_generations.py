"""What a causal model goes on to say: the texts of every known fact, each under its own change."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.experiments.generate import generate
from atlas.interventions import Suppress
from atlas.neuron import Neuron, Prompt
from atlas.store.atlas import DATA, Atlas
from atlas.surgery import load_subject
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.setting import Setting
from build.plan import BuildOptions
from build.run import run_build
from tests.build.test_build import register_tiny_dataset
from tests.sample_atlas import replace_table

OPTIONS = EvaluateOptions(experiments="generations,effects")


@pytest.fixture(scope="module")
def measured(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's atlas that says of most facts that the model knows them."""
    register_tiny_dataset()
    folder = tmp_path_factory.mktemp("generations") / "atlas"
    run_build(BuildOptions(model=str(tiny_llama), dataset="tiny"), out=folder)
    facts = pq.read_table(folder / "facts.parquet").to_pandas()
    replace_table(folder, "facts", facts.assign(known=facts["fact_id"] != "P36.italy"))
    evaluate_atlas(folder, OPTIONS, fresh=True)
    return folder


def test_each_text_is_what_the_model_says_without_these_neurons(measured, tiny_llama):
    subject = load_subject(str(tiny_llama))
    with Atlas(measured) as atlas:
        rows = atlas.query("""
            SELECT g.*, p.text AS prompt, p.held_out, p.rank, f.object,
                   CASE "group" WHEN 'unchanged' THEN []
                   WHEN 'random' THEN (SELECT list((layer, neuron)) FROM control_neurons AS c
                                       WHERE c.fact_id = g.fact_id AND c."group" = 'random')
                   ELSE (SELECT list((layer, neuron)) FROM knowledge_neurons AS k WHERE k.fact_id = g.fact_id)
                   END AS suppressed
            FROM generations AS g JOIN facts AS f ON f.fact_id = prompt_fact_id
            JOIN prompts AS p ON p.fact_id = prompt_fact_id AND p.template_id = g.template_id
        """)
        known = atlas.query("SELECT fact_id FROM facts WHERE known AND n_neurons > 0")["fact_id"]
    assert set(rows["fact_id"]) == set(known)
    assert set(rows["group"]) == {"unchanged", "own", "random", "unrelated"}
    assert rows["held_out"].all()
    for row in rows.itertuples():
        neurons = tuple(Neuron(*pair) for pair in row.suppressed)
        assert len(neurons) == row.n_neurons
        prompt = Prompt(row.prompt_fact_id, row.template_id, row.prompt, row.object)
        assert row.text == generate(subject, prompt, Suppress(neurons))


def test_the_unrelated_prompt_is_another_known_fact_s_whose_own_text_is_there(measured, tiny_llama):
    with Atlas(measured) as atlas:
        rows = atlas.query("FROM generations")
        setting = Setting(atlas, str(tiny_llama))
        facts = setting.by_id
    own = {row.fact_id: row for row in rows[rows["group"] == "unchanged"].itertuples()}
    for row in rows[rows["group"] == "unrelated"].itertuples():
        fact, other = facts[row.fact_id], facts[row.prompt_fact_id]
        assert other.relation_id != fact.relation_id
        assert other.answer != fact.answer
        assert own[other.fact_id].template_id == row.template_id


def test_a_masked_model_continues_no_text(tmp_path):
    from tests.build.evidence.test_evaluate import without_experiments

    folder = tmp_path / "atlas"
    folder.mkdir()
    without_experiments(DATA / "starter-pocket-bert", folder)
    said = evaluate_atlas(folder, EvaluateOptions(experiments="generations"))
    assert "not measured: pocket-bert fills in masks and continues no text" in said
    with Atlas(folder) as atlas:
        assert not atlas.measured("generations")
