"""The made-up atlas that speed is measured on is an atlas, and as large as the published one."""

import atlas
from build.output.check import check_atlas
from tests import big_atlas
from tests.big_atlas import write_big_atlas
from tests.sample_atlas import OPTIONAL_TABLES


def test_it_passes_the_check_and_its_neurons_follow_from_its_scores(tmp_path):
    folder = write_big_atlas(tmp_path / "big", n_facts=1_000)
    report = check_atlas(folder)
    assert not report.problems
    assert report.converged == 1
    with atlas.open(folder) as opened:
        counts = opened.query_one(
            """SELECT (SELECT count(*) FROM facts) AS facts, (SELECT count(*) FROM prompts) AS prompts,
                      (SELECT count(*) FROM knowledge_neurons) AS pairs,
                      (SELECT max(n_facts) FROM hub_neurons) AS hub"""
        )
    assert (counts["facts"], counts["prompts"], counts["pairs"]) == (1_000, 8_137, 11_036)
    assert counts["hub"] > 200


def test_it_is_the_same_each_time(tmp_path):
    first, second = (write_big_atlas(tmp_path / name, n_facts=500) for name in ("first", "second"))
    with atlas.open(first) as a, atlas.open(second) as b:
        for table in a.tables:
            rows = f"SELECT count(*) AS n, bit_xor(hash(row)) AS rows FROM {table} AS row"
            assert a.query_one(rows) == b.query_one(rows)


def test_its_relations_add_up_to_the_published_numbers():
    sizes = big_atlas.sizes_of(big_atlas.N_FACTS, big_atlas.N_PROMPTS)
    assert len(sizes) == 39
    assert sum(n_facts for _, _, n_facts, _ in sizes) == 27_610
    assert sum(n_facts * n_templates for _, _, n_facts, n_templates in sizes) == 224_674
    assert min(n_templates for *_, n_templates in sizes) == 4


def test_tables_can_be_left_out(tmp_path):
    folder = write_big_atlas(tmp_path / "bare", n_facts=500, leave_out=OPTIONAL_TABLES)
    assert check_atlas(folder).passed
    with atlas.open(folder) as opened:
        assert opened.tables == ("relations", "facts", "knowledge_neurons")
