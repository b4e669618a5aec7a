"""Whose neurons they are: parts that are known by construction, and the committed ones from their effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlas.store.atlas import DATA, Atlas
from build.evidence.specificity import FEWEST, GROUPS, parts, split

SHARES = {"general": 0.05, "relation": 0.2, "answer": 0.3, "own": 0.25}


def made(*, spread: float = 0.0, relations: int = 4, facts: int = 20, prompts: int = 3) -> pd.DataFrame:
    """Effects in which sharing a relation and sharing an answer add up."""
    generator, rows = np.random.default_rng(0), []
    falls = {
        "unrelated": ("general",),
        "same_relation": ("general", "relation"),
        "same_answer": ("general", "answer"),
        "same_relation_same_answer": ("general", "relation", "answer"),
        "own": tuple(SHARES),
    }
    for relation in range(relations):
        for fact in range(facts):
            for group, of in falls.items():
                for _ in range(prompts):
                    fall = sum(map(SHARES.get, of)) + spread * generator.normal()
                    rows.append((f"P{relation}", f"P{relation}.{fact}", group, 0.8, 0.8 * (1 - fall)))
    frame = pd.DataFrame(rows, columns=["relation_id", "fact_id", "group", "p_before", "p_after"])
    return frame.assign(intervention="suppress", held_out=True, known=True, asked_known=True)


def test_the_parts_are_those_that_the_effects_were_made_of():
    rows = pd.DataFrame(split(made()))
    assert set(rows["relation_id"]) == {"all", "P0", "P1", "P2", "P3"}
    for _, part in rows.groupby("relation_id"):
        found = part.set_index("part")["value"]
        assert found.drop("fall").to_dict() == pytest.approx(SHARES)
        assert found.drop("fall").sum() == pytest.approx(found["fall"])
        assert (part["share"] == part["value"] / found["fall"]).all()
        assert (
            (part["share_low"] <= part["share"] + 1e-9) & (part["share"] <= part["share_high"] + 1e-9)
        ).all()
    assert set(rows.loc[rows["relation_id"] == "all", "n_relations"]) == {4}


def test_an_interval_covers_the_truth_and_narrows_with_more_facts():
    few, many = (
        pd.DataFrame(split(made(spread=0.3, facts=facts))).query("relation_id == 'all'") for facts in (12, 80)
    )
    for rows in (few, many):
        truth = rows["part"].map(SHARES | {"fall": sum(SHARES.values())})
        assert ((rows["low"] <= truth) & (truth <= rows["high"])).sum() >= 4
    assert ((many["high"] - many["low"]).to_numpy() < (few["high"] - few["low"]).to_numpy()).all()


def test_order_of_adding_does_not_count():
    own, both, answer, relation, unrelated = falls = np.array([0.9, 0.8, 0.7, 0.5, 0.2])
    found = parts(falls)
    assert found["relation"] == pytest.approx(((relation - unrelated) + (both - answer)) / 2)
    assert found["answer"] == pytest.approx(((answer - unrelated) + (both - relation)) / 2)
    assert found["own"] == pytest.approx(own - both)


@pytest.mark.parametrize("group", GROUPS)
def test_a_relation_with_too_few_prompts_of_a_group_does_not_count(group):
    rows = made(facts=FEWEST // 2, prompts=2)
    last = rows.index[(rows["relation_id"] == "P0") & (rows["group"] == group)][-1]
    assert {row["relation_id"] for row in split(rows)} == {"all", "P0", "P1", "P2", "P3"}
    assert {row["relation_id"] for row in split(rows.drop(last))} == {"all", "P1", "P2", "P3"}
    assert split(rows[rows["group"] != group]) == []


def test_the_committed_parts_follow_from_the_committed_effects():
    compared = 0
    for folder in sorted(DATA.glob("starter-*")):
        with Atlas(folder) as atlas:
            if not atlas.measured("specificity"):
                continue
            falls = atlas.query("""
                SELECT f.relation_id, "group", 1 - sum(p_after::DOUBLE) / sum(p_before) AS fall, count(*) AS n
                FROM effects AS e JOIN facts AS f USING (fact_id)
                JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
                WHERE e.held_out AND intervention = 'suppress' AND f.known
                  AND (asked.known OR rank_before = 1)
                  AND fact_id IN (SELECT fact_id FROM effects WHERE "group" = 'matched')
                GROUP BY ALL
            """)
            stored = atlas.query("SELECT part, value FROM specificity WHERE relation_id = 'all'")
        table = falls.pivot(index="relation_id", columns="group", values="fall")[list(GROUPS)]
        counts = falls.pivot(index="relation_id", columns="group", values="n").reindex_like(table)
        plain = parts(table[(counts >= FEWEST).all(axis="columns")].mean().to_numpy())
        assert stored.set_index("part")["value"].to_dict() == pytest.approx(plain, rel=1e-4, abs=1e-6)
        compared += 1
    assert compared
