"""The map of BERT that comes along has the published figures and no sentence of PARAREL's, and is small."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.datasets.pararel import TEMPLATES, own_templates
from atlas.experiments.controls import choose_prompts
from atlas.queries import prompts_of_fact
from atlas.queries.search import facts_matching, prompts_with
from atlas.store.atlas import Atlas, bundled
from build.__main__ import main
from build.output.check import check_atlas
from build.sources.published import MAP_ATLAS_ID
from tests.build.sources.test_published import PARAREL, SOURCE, needs_published
from tests.project.test_project import MB, tracked

FOLDER = bundled()[MAP_ATLAS_ID]


@pytest.fixture(scope="module")
def bert() -> Iterator[Atlas]:
    with Atlas(FOLDER) as opened:
        yield opened


def test_it_has_the_published_facts_and_pairs_and_this_project_s_templates(bert):
    counted = bert.query_one(
        "SELECT count(*) AS facts, count(DISTINCT relation_id) AS relations, avg(n_neurons) AS mean, "
        "sum(n_neurons)::BIGINT AS pairs FROM facts"
    )
    assert round(counted.pop("mean"), 2) == 11.04
    assert counted == {"facts": 27_610, "relations": 39, "pairs": 304_711}
    hub = bert.query_one("SELECT layer, neuron, n_facts FROM neurons ORDER BY n_facts DESC LIMIT 1")
    assert (hub["layer"], hub["neuron"], round(hub["n_facts"] / 27_610, 3)) == (10, 2484, 0.242)
    templates = bert.query("SELECT relation_id, template_id, text FROM templates ORDER BY ALL")
    own = {each.template_id: each.pattern for group in own_templates().values() for each in group}
    assert [own[each] for each in templates["template_id"]] == list(templates["text"])
    assert set(templates.groupby("relation_id").size()) == {8}


def test_it_passes_its_check_is_small_and_is_marked_as_non_commercial(bert):
    report = check_atlas(FOLDER)
    assert report.problems == report.warnings == []
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6 * MB
    manifest = bert.manifest
    assert manifest.tables == ("relations", "templates", "facts", "knowledge_neurons", "neurons")
    assert manifest.dataset.licence.startswith("non-commercial")
    for licence in ("CC BY-SA 4.0", "CC BY-NC 4.0", "MIT"):
        assert licence in manifest.dataset.licence
    assert manifest.method.options["published"]["licence"] == "MIT"
    assert "no sentence of PARAREL's" in manifest.notes


def test_prompts_are_made_from_templates_where_they_are_needed(bert):
    fact = facts_matching(bert, "France capital Paris", relation="P36").rows.iloc[0]
    prompts = prompts_of_fact(bert, fact["fact_id"])
    assert list(prompts["held_out"]) == [False] * 4 + [True] * 4
    assert all(fact["subject"] in text and "[Y]" in text for text in prompts["text"])
    assert prompts["probability"].isna().all()
    found = prompts_with(bert, [fact["fact_id"]], ["city", "capital"])
    assert found[fact["fact_id"]] in set(prompts["text"])
    groups = [each.group for each in choose_prompts(bert, fact["fact_id"])]
    assert {name: groups.count(name) for name in dict.fromkeys(groups)} == {
        "asked": 4,
        "paraphrases": 4,
        "neighbours": 6,
        "unrelated": 12,
    }


# No sentence of PARAREL's ----------------------------------------------------------------------------


def patterns() -> set[str]:
    lines = (line for path in (PARAREL / TEMPLATES).glob("*.jsonl") for line in path.open(encoding="utf-8"))
    return {json.loads(line)["pattern"].strip() for line in lines}


def strings(table: pa.Table) -> set[str]:
    texts = (table[field.name] for field in table.schema if pa.types.is_string(field.type))
    return {text for column in texts for text in column.unique().to_pylist() if text is not None}


@needs_published
def test_no_string_of_the_map_is_a_template_of_pararel_s():
    theirs = patterns()
    assert len(theirs) > 300
    for path in FOLDER.glob("*.parquet"):
        assert not theirs & {text.strip() for text in strings(pq.read_table(path))}


@needs_published
def test_no_file_of_the_repository_has_a_template_of_pararel_s():
    theirs, found = patterns(), []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in theirs:
            # As a whole string or line: sentences of this project may contain one of theirs.
            whole = rf"(?m)(^|[\"'`|>,])\s*{re.escape(pattern)}\s*($|[\"'`|<,])"
            if pattern in text and re.search(whole, text):
                found.append((path.name, pattern))
    assert found == []


@needs_published
def test_the_command_makes_the_same_bytes_again(tmp_path: Path, capsys):
    out = tmp_path / "map"
    command = ["import-published", "--own-templates", "--source", str(SOURCE), "--pararel", str(PARAREL)]
    assert main([*command, "--out", str(out)]) == 0
    assert "pararel-bert-base-uncased opens the atlas that comes with the project" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }
