"""Synonymy: rows against value vectors moved by hand in pocket-bert, and shares counted one by one."""

import shutil
from dataclasses import replace

import pytest

from atlas.datasets.synonyms import load_synonyms
from atlas.queries import critics
from atlas.store.atlas import Atlas, bundled
from atlas.store.schema import conform
from build.evidence.setting import Setting
from build.evidence.synonymy import measure, summary, synonyms_of, units
from build.evidence.update import facts_to_edit, plan_edit
from tests.build.evidence.test_evidence_update import edited, said
from tests.sample_atlas import replace_table

POCKET = bundled().get("starter-pocket-bert")
FACTS = ("P36:the-netherlands", "P36:morocco", "P1376:kyiv")


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert")


@pytest.fixture(scope="module")
def rows(setting):
    return measure(setting, FACTS)


def test_every_valid_fact_with_a_synonym_is_taken(setting):
    chosen = {fact_id for unit in units(setting) for fact_id in unit}
    assert set(FACTS) <= chosen
    named = {fact.fact_id for fact in setting.facts if fact.fact.subject in load_synonyms()}
    valid = {
        fact_id for relation_id in setting.by_relation for fact_id in facts_to_edit(setting, relation_id)
    }
    assert chosen == named & valid


def test_rows_are_what_moved_value_vectors_give_under_each_name(setting, rows):
    compared = 0
    for fact_id in FACTS[::2]:
        fact = setting.by_id[fact_id]
        edit = plan_edit(setting, fact)
        prompts = {each.prompt.template_id: each.prompt for each in fact.held_out}
        mine = [
            row for row in rows if row["fact_id"] == fact_id and row["group"] == "own" and row["add"] == 2
        ]
        assert {row["asked"] for row in mine} == {fact.fact.subject, *load_synonyms()[fact.fact.subject]}
        for row in mine:
            stored = prompts[row["template_id"]]
            prompt = replace(stored, text=stored.text.replace(fact.fact.subject, row["asked"]))
            assert row["synonym"] == (row["asked"] != fact.fact.subject)
            for name, answer in (("old", fact.fact.object), ("new", edit.new)):
                p_before, rank_before, _ = said(setting.subject, prompt, answer)
                with edited(setting.subject, edit.groups["own"], fact.fact.object, edit.new, 1, 2):
                    p_after, rank_after, _ = said(setting.subject, prompt, answer)
                assert row[f"p_{name}_before"] == pytest.approx(p_before, rel=1e-3, abs=1e-9)
                assert row[f"p_{name}_after"] == pytest.approx(p_after, rel=1e-3, abs=1e-9)
                assert row[f"rank_{name}_before"] == pytest.approx(rank_before, rel=0.01)
                assert row[f"rank_{name}_after"] == pytest.approx(rank_after, rel=0.01)
                compared += 1
    assert compared >= 2 * 2 * 4 * 2


def test_a_synonym_that_gives_an_answer_away_is_left_out(setting):
    france = setting.by_id["P36:france"]
    assert synonyms_of(france, "Rome") == ("the French Republic",)
    assert synonyms_of(replace(france, fact=replace(france.fact, object="French")), "Rome") == ()
    assert synonyms_of(france, "Republic") == ()


def test_only_prompts_right_under_both_names_count_and_some_names_are_unlike(rows, tmp_path):
    folder = replace_table(
        shutil.copytree(POCKET, tmp_path / "pocket"), "synonymy", conform("synonymy", rows)
    )
    with Atlas(folder) as atlas:
        found = critics.synonymy(atlas)
        lines = summary(atlas)
    chosen = [row for row in rows if row["group"] == "all" and row["add"] == 8]
    subject = {(r["fact_id"], r["template_id"]): r for r in chosen if not r["synonym"]}
    pairs = [(r, subject[r["fact_id"], r["template_id"]]) for r in chosen if r["synonym"]]
    counted = [(r, s) for r, s in pairs if r["rank_old_before"] == s["rank_old_before"] == 1]
    unlike = [(r, s) for r, s in counted if r["asked"] != "the Kingdom of Morocco"]
    assert 0 < len(unlike) < len(counted)
    part = found[(found["group"] == "all") & (found["add"] == 8)].set_index(["asked", "edits"])
    for asked, chosen in (("synonym", counted), ("unlike", unlike)):
        successful = [r for r, s in chosen if s["rank_new_after"] == 1]
        for edits, of in (("all", [r for r, _ in chosen]), ("successful", successful)):
            row = part.loc[asked, edits]
            assert row["n_prompts"] == len(of)
            assert row["share"] == pytest.approx(sum(r["rank_new_after"] == 1 for r in of) / len(of))
            assert row["low"] <= row["share"] <= row["high"]
    others = atlas_edits(folder)
    assert part.loc["another", "all"]["n_prompts"] == len(others)
    assert part.loc["another", "all"]["share"] == pytest.approx((others["rank_new_after"] == 1).mean())
    assert part.loc["subject", "all"]["n_prompts"] == len(
        {(r["fact_id"], r["template_id"]) for r, _ in counted}
    )
    assert lines[0].startswith("3 synonyms of 3 facts asked; ")


def atlas_edits(folder):
    """What edits of all neurons did to other facts of the relation that were right before."""
    with Atlas(folder) as atlas:
        rows = atlas.query("SELECT * FROM edits")
    rows = rows[(rows["kind"] == "same_relation") & (rows["group"] == "all") & (rows["add"] == 8)]
    return rows[rows["rank_old_before"] == 1]


def test_symmetry_counts_what_was_right_before_and_what_follows_from_success(setting):
    rows = setting.atlas.query("""
        FROM edits WHERE "group" = 'all' AND add = 8 AND kind IN ('edited', 'symmetry')
    """).to_dict("records")
    success = {r["fact_id"]: r["rank_new_after"] == 1 for r in rows if r["kind"] == "edited"}
    asked = [r for r in rows if r["kind"] == "symmetry" and r["rank_old_before"] == 1]
    found = critics.symmetry(setting.atlas)
    found = found[(found["group"] == "all") & (found["add"] == 8)].set_index("edits")
    for edits, of in (("all", asked), ("successful", [r for r in asked if success[r["fact_id"]]])):
        row = found.loc[edits]
        assert (row["n_prompts"], row["n_edits"]) == (len(of), len({r["fact_id"] for r in of}))
        assert row["share"] == pytest.approx(sum(r["rank_new_after"] == 1 for r in of) / len(of))
