"""The report says what the tables say, for every atlas, whatever it lacks; and it can say no.

Numbers are counted again from the rows of the synthetic atlas, in plain Python.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

from atlas.charts import look
from atlas.numbers import NOT_MEASURED
from atlas.store.atlas import Atlas
from atlas.store.manifest import read_manifest, record_files, write_manifest
from atlas.store.schema import REQUIRED_TABLES, TABLES, empty_table
from build.__main__ import main
from build.report import page, sections, studies
from build.report.claims import CLAIMS, judge, strongest
from build.report.figures import Figure
from build.report.findings import Findings, Statistics, gather, gather_effects
from build.report.lines import compare_published
from build.report.numbers import Measurement, mean_of, ratio_of
from build.report.paper_values import PAPER_VALUES, RANGES, REPLICATION_VALUES
from tests import ROOT
from tests.build.sources.test_published import PARAREL, SOURCE, needs_published
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

N_FACTS = 80
OPTIONAL = sorted(set(TABLES) - set(REQUIRED_TABLES))
CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample", n_facts=N_FACTS)


@pytest.fixture(scope="module")
def tables() -> dict[str, list[dict]]:
    """The rows of the sample, as they were made up."""
    return sample_tables(N_FACTS)


@pytest.fixture(scope="module")
def found(sample: Path) -> Findings:
    return gather(Atlas(sample))


@pytest.fixture(scope="module")
def written(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the sample, with its charts."""
    out = tmp_path_factory.mktemp("reports") / "report"
    assert main(["figures", str(sample), "--out", str(out)]) == 0
    return out


def markdown(*findings: Findings) -> str:
    return page.markdown(sections.report_blocks(findings))


def close(estimate: Measurement | None, value: float) -> bool:
    assert estimate is not None
    return estimate.value == pytest.approx(value, rel=1e-5, abs=1e-6)


# The numbers are those of the tables -------------------------------------------------------------------


def test_effects_are_the_summaries_of_the_atlas(found, tables):
    for row in tables["effect_summaries"]:
        keys = (row["intervention"], row["group"], row["templates"], row["facts"])
        for ratio in ("paper", "replication"):
            estimate = found.effects.of(*keys, relation=row["relation_id"], ratio=ratio)
            assert close(estimate, row[f"{ratio}_change"])
            assert estimate.low == pytest.approx(row[f"{ratio}_low"], rel=1e-5, abs=1e-6)
            assert estimate.n == row["n_facts"]


def test_effects_without_summaries_are_summed_up_from_single_ones(sample, found, tmp_path):
    summed = gather_effects(Atlas(without(sample, tmp_path / "older", "effect_summaries")))
    for group in ("own", "random", "unrelated"):
        for templates in ("held-out", "discovery"):
            keys = ("suppress", group, templates, "all")
            if found.effects.row(*keys) is not None:
                assert close(summed.of(*keys), found.effects.of(*keys).value)


def test_statistics_are_counted_from_the_stored_neurons(found, tables):
    sets = defaultdict(set)
    for row in tables["knowledge_neurons"]:
        sets[row["fact_id"]].add((row["layer"], row["neuron"]))
    facts = tables["facts"]
    sizes = sorted(len(sets[fact["fact_id"]]) for fact in facts)
    statistics = found.statistics
    assert close(statistics.neurons, mean(sizes))
    assert (statistics.most, statistics.n_empty) == (sizes[-1], sizes.count(0))
    carried = Counter(neuron for each in sets.values() for neuron in each)
    top = {neuron for neuron, _ in sorted(carried.items(), key=lambda each: (-each[1], each[0]))[:20]}
    assert close(statistics.commonest, max(carried.values()) / len(facts))
    assert close(statistics.hubs, sum(not top.isdisjoint(sets[f["fact_id"]]) for f in facts) / len(facts))
    by_relation = defaultdict(list)
    for fact in facts:
        by_relation[fact["relation_id"]].append(fact)
    within = [
        mean(len(sets[a["fact_id"]] & sets[b["fact_id"]]) for a, b in combinations(members, 2))
        for members in by_relation.values()
    ]
    across = [
        mean(len(sets[a["fact_id"]] & sets[b["fact_id"]]) for a in one for b in other)
        for one, other in combinations(by_relation.values(), 2)
    ]
    assert close(statistics.within, mean(within))
    assert close(statistics.across, mean(across))
    same, different = [], []
    for members in by_relation.values():
        shared = {True: [], False: []}
        for a, b in combinations(members, 2):
            equal = a["object"].casefold().strip() == b["object"].casefold().strip()
            shared[equal].append(len(sets[a["fact_id"]] & sets[b["fact_id"]]))
        if shared[True] and shared[False]:
            same.append(mean(shared[True]))
            different.append(mean(shared[False]))
    assert close(statistics.same_object, mean(same))
    assert close(statistics.other_object, mean(different))
    upper = [row for row in tables["knowledge_neurons"] if row["layer"] >= 4 - statistics.n_upper]
    assert statistics.n_upper == 2  # five twelfths of four layers
    assert close(statistics.upper, len(upper) / len(tables["knowledge_neurons"]))


def test_edits_are_counted_as_the_paper_does(found, tables):
    for group in {row["group"] for row in tables["edits"]}:
        rows = [row for row in tables["edits"] if row["group"] == group and row["add"] == 8]
        edited = [row for row in rows if row["kind"] == "edited"]
        scores = found.edits.of_group(group)
        answered = [row for row in edited if row["rank_old_before"] == 1]
        assert close(scores["change"], mean(row["rank_old_after"] > 1 for row in answered))
        assert close(scores["success"], mean(row["rank_new_after"] == 1 for row in edited))
        likelier = [row["p_new_after"] > row["p_old_after"] for row in edited]
        assert close(scores["efficacy"], mean(likelier))
        assert close(scores["top_five"], mean(row["rank_new_after"] <= 5 for row in edited))
        others = [row for row in rows if row["kind"] == "same_relation"]
        if not others:
            continue
        kept = [row for row in others if row["rank_old_before"] == 1]
        assert close(scores["same_kept"], mean(row["rank_old_after"] == 1 for row in kept))
        alike = [row for row in rows if row["kind"] == "same_object" and row["rank_old_before"] == 1]
        assert close(scores["alike_kept"], mean(row["rank_old_after"] == 1 for row in alike))
        before, after = (
            math.exp(mean(-math.log(row[f"p_old_{when}"]) for row in others)) for when in ("before", "after")
        )
        assert scores["same_perplexity"].value == pytest.approx(after - before, rel=1e-3)


def test_erasures_are_means_over_relations(found, tables):
    doses = defaultdict(set)
    for row in tables["erasures"]:
        if row["n_neurons"] <= 20:
            doses[row["relation_id"]].add(row["n_neurons"])
    rows = [row for row in tables["erasures"] if row["n_neurons"] == max(doses[row["relation_id"]])]
    own = [r for r in rows if r["group"] == "own" and r["relation_id"] == r["asked_relation_id"]]
    lost = sum(r["accuracy_before"] - r["accuracy_after"] for r in own) / sum(
        r["accuracy_before"] for r in own
    )
    assert close(found.erasures.lost["own", "own"], lost)
    growth = mean(math.log(row["perplexity_after"] / row["perplexity_before"]) for row in own)
    assert close(found.erasures.worse["own", "own"], math.exp(growth) - 1)
    others = defaultdict(list)
    for row in rows:
        if row["group"] == "own" and row["relation_id"] != row["asked_relation_id"]:
            others[row["relation_id"]].append(row)
    before = [mean(row["accuracy_before"] for row in part) for part in others.values()]
    after = [mean(row["accuracy_after"] for row in part) for part in others.values()]
    assert close(found.erasures.lost["own", "others"], (sum(before) - sum(after)) / sum(before))


def of_known(rows: list[dict], tables: dict) -> list[dict]:
    known = {fact["fact_id"] for fact in tables["facts"] if fact["known"]}
    chosen = [row for row in rows if row["fact_id"] in known]
    assert len(known) >= 20
    assert len(chosen) < len(rows)
    return chosen


def test_contexts_and_checks_are_means_over_known_facts(found, tables):
    for context in ("fact", "relation", "subject", "random"):
        for group in ("own", "random"):
            every = [r for r in tables["contexts"] if (r["context"], r["group"]) == (context, group)]
            chosen = of_known(every, tables)
            for name in ("relative", "activation", "magnitude"):
                number = getattr(found.contexts, name)[context, group]
                assert close(number, mean(r[name] for r in chosen))
                assert number.counted() == f"n\u00a0=\u00a0{len(chosen)} known facts"
            assert close(found.contexts.whole.relative[context, group], mean(r["relative"] for r in every))
    same = [r["jaccard"] for r in tables["stability"] if r["jaccard"] is not None]
    assert close(found.stability.whole.same, mean(same))
    rows = of_known(tables["stability"], tables)
    assert close(found.stability.same, mean(r["jaccard"] for r in rows if r["jaccard"] is not None))
    fall = sum(r["p_held_out"] for r in rows) / sum(r["p_before"] for r in rows) - 1
    assert close(found.stability.fall_held_out, fall)
    sizes = {(r["fact_id"], r["mode"]): r for r in tables["methods"] if r["method"] == "integrated_gradients"}
    chosen = [r for r in tables["methods"] if (r["method"], r["mode"]) == ("activation", "count")]
    numbers = found.methods.rows["activation", "count"]
    overlaps = []
    for row in chosen:
        either = row["n_neurons"] + sizes[row["fact_id"], "count"]["n_neurons"] - row["shared"]
        overlaps.append(row["shared"] / either)
    assert close(numbers.overlap, mean(overlaps))
    suppressed = sum(r["p_suppressed"] for r in chosen) / sum(r["p_before"] for r in chosen) - 1
    assert close(numbers.suppressed, suppressed)
    few = [r for r in tables["methods"] if (r["method"], r["mode"]) == ("log_prob_increase", "count")]
    same = [sizes[row["fact_id"], "count"] for row in few]
    fall = sum(r["p_suppressed"] for r in same) / sum(r["p_before"] for r in same) - 1
    assert close(found.methods.rows["log_prob_increase", "count"].gradients, fall)


def test_half_of_the_effect_is_found_step_by_step(found, tables):
    curves = defaultdict(dict)
    for row in of_known(tables["subsets"], tables):
        if row["order"] == "score":
            curves[row["fact_id"]][row["k"]] = 1 - row["p_after"] / row["p_before"]
    halves = []
    for falls in curves.values():
        whole = falls[max(falls)]
        if whole >= 0.1:
            halves.append(min(k for k, fall in falls.items() if fall >= whole / 2))
    assert close(found.subsets.k_half["score"], mean(halves))
    assert close(found.subsets.single["score"], mean(k == 1 for k in halves))


def test_every_number_of_the_report_says_its_n(found):
    text = markdown(found)
    own = found.effects.of("suppress", "own", "held-out", "known")
    assert f"**{own.number()}** {own.interval()}<br>n\u00a0=\u00a0{own.n:,} facts" in text
    assert f"n\u00a0=\u00a0{found.edits.n_edits} edits" in text


def test_published_values_and_their_places_stand_beside_ours(found):
    text = markdown(found)
    for value in (*PAPER_VALUES.values(), *RANGES.values()):
        assert value.number in text
        assert value.source in text
    for value in REPLICATION_VALUES.values():
        assert value.number in text
    assert {value.number for value in PAPER_VALUES.values()} >= {
        *("−29.03\u00a0%", "+31.17\u00a0%", "4.13", "1.23", "0.09", "48.5\u00a0%", "34.4\u00a0%"),
        *("+8.4", "+7.2", "+106.6\u00a0%", "+128.2\u00a0%"),
    }
    assert "Published numbers are for other models than ours" in text


# Intervals -------------------------------------------------------------------------------------------


def test_an_interval_holds_the_mean_and_is_the_same_each_time():
    values = [0.1, 0.4, 0.35, 0.8, 0.2, 0.6]
    one, other = mean_of(values, unit="share"), mean_of(values, unit="share")
    assert one == other
    assert one.value == pytest.approx(mean(values))
    assert one.low < one.value < one.high
    assert one.high - one.low == pytest.approx(4 * 0.2363 / math.sqrt(6), rel=0.25)  # about ± 2 errors


def test_numbers_that_do_not_differ_have_no_width():
    estimate = ratio_of([2, 2, 2], [4, 4, 4], unit="share")
    assert (estimate.low, estimate.value, estimate.high) == (0.5, 0.5, 0.5)


def test_none_of_ten_is_not_known_to_be_none_at_all():
    none = ratio_of([0] * 10, [1] * 10, unit="share")
    assert (none.low, none.value) == (0, 0)
    z = 1.959964
    assert none.high == pytest.approx(z**2 / (10 + z**2))  # Wilson's score interval where no one has it
    every = mean_of([True] * 10, unit="share")
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(10 / (10 + z**2))


def test_nothing_has_no_mean():
    assert mean_of([], unit="share") is None
    assert mean_of([None, float("nan")], unit="share") is None
    assert ratio_of([1, 2], [0, 0], unit="share") is None


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Measurement(-0.84512, -0.852, -0.837), "−84.5\u00a0% [−85.2, −83.7]"),
        (Measurement(0.0001, unit="change"), "0.0\u00a0%"),
        (Measurement(18.569, unit="change"), "+1,857\u00a0%"),
        (Measurement(4.126, unit="count"), "4.13"),
        (Measurement(851_072_965.0, 3e7, unit="difference"), "+8.5 × 10⁸"),
        (Measurement(float("inf"), unit="difference"), "∞"),
    ],
)
def test_numbers_are_printed_in_their_unit(estimate, text):
    assert estimate.text() == text


# Verdicts and findings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "interval", "controls", "verdict"),
    [
        (-0.28, (-0.3, -0.25), [], "same sign, about as strong"),
        (-0.84, (-0.85, -0.83), [("random", 0.004)], "same sign, stronger"),
        (-0.10, (-0.12, -0.08), [("random", -0.01)], "same sign, weaker"),
        (-5.9, (-6, -5), [], "same sign, 20 times as large"),
        (-1e8, (-1e9, -1e7), [], "same sign, many orders of magnitude larger: not comparable"),
        (
            -0.10,
            (-0.12, -0.08),
            [("random", -0.01), ("most active", -0.09)],
            "same sign, weaker, but a control does 90% of it (most active)",
        ),
        (0.05, (0.04, 0.06), [("random", 0.05)], "not reproduced: the opposite sign"),
        (-0.02, (-0.05, 0.01), [], "not reproduced: no significant change"),
    ],
)
def test_a_change_is_judged_by_sign_size_and_control(value, interval, controls, verdict):
    ours = Measurement(value, *interval)
    assert (
        compare_published(
            ours, PAPER_VALUES["suppress"], [(name, Measurement(each)) for name, each in controls]
        )
        == verdict
    )


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (4.134, "the same number"),
        (5.0, "about the same"),
        (11.0, "same order of magnitude, more"),
        (1.5, "same order of magnitude, less"),
        (79.9, "another order of magnitude (19 times as much); not comparable: another model"),
        (0.0, "not reproduced: none here"),
    ],
)
def test_a_count_is_judged_by_its_order_of_magnitude(value, verdict):
    assert compare_published(Measurement(value, unit="count"), PAPER_VALUES["neurons"]) == verdict


def test_what_was_not_measured_gets_no_other_verdict():
    assert compare_published(None, PAPER_VALUES["suppress"]) == NOT_MEASURED


def changed(found: Findings, values: dict[tuple[str, str], float]) -> Findings:
    """The findings with other mean effects on held-out prompts, by (intervention, group)."""
    rows = found.effects.rows.copy()
    for (intervention, group), value in values.items():
        chosen = (rows["intervention"] == intervention) & (rows["group"] == group)
        rows.loc[chosen, ["paper_change", "paper_low", "paper_high"]] = (value, value - 0.01, value + 0.01)
    return replace(found, effects=type(found.effects)(rows))


@pytest.fixture(scope="module")
def ideal(found: Findings) -> Findings:
    """An atlas of which all that the thesis claims is true: only effects and statistics were measured."""
    as_claimed = {
        ("suppress", "own"): -0.9,
        ("amplify", "own"): 0.5,
        **{
            (i, g): 0.001
            for i in ("suppress", "amplify")
            for g in ("random", "matched", "baseline", "unrelated")
        },
    }
    few = Measurement(0.01, n=80, unit="share")
    statistics = replace(
        found.statistics,
        neurons=Measurement(4.0, n=80, unit="count"),
        within=Measurement(2.0, n=4, unit="count"),
        across=Measurement(0.05, n=4, unit="count"),
        same_object=Measurement(0.2, n=4, unit="count"),
        identical=few,
        commonest=few,
        upper=Measurement(0.95, n=80, unit="share"),
    )
    silent = dict.fromkeys(("edits", "erasures", "contexts", "stability", "subsets", "methods"))
    result = changed(replace(found, statistics=statistics, **silent), as_claimed)
    result.effects.rows["top_changed"] = 0.95
    return result


def test_where_all_holds_the_report_says_that_nothing_was_found(ideal):
    assert {each.outcome for each in judge(ideal)} == {"holds"}
    assert strongest(judge(ideal)) is None
    assert "No finding against the thesis" in markdown(ideal)


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        ({("amplify", "own"): -0.05}, "amplify"),
        ({("suppress", "own"): 0.02}, "suppress"),
        ({("suppress", "unrelated"): -0.7}, "suppress-unrelated"),
        ({("suppress", "unrelated"): 0.7}, "suppress-unrelated"),
        ({("suppress", "matched"): -0.8}, "suppress-matched"),
        ({("suppress", "random"): -0.6, ("suppress", "baseline"): -0.2}, "suppress-random"),
        ({("suppress", "baseline"): -0.6, ("suppress", "random"): -0.2}, "suppress-baseline"),
        ({("amplify", "matched"): 0.4}, "amplify-matched"),
    ],
)
def test_the_strongest_finding_follows_the_numbers(ideal, values, claim):
    against = changed(ideal, values)
    finding = strongest(judge(against))
    assert finding.claim.name == claim
    assert finding.outcome == "does not hold"
    summary = markdown(against).split("## 1 Suppress")[0]
    assert f"**The strongest finding against the thesis.** {finding.claim.fails.removesuffix('.')}" in summary


STATISTICS = {"hub": "commonest", "identical": "identical"}


@pytest.mark.parametrize("claim", STATISTICS)
def test_shared_neurons_speak_against_it(ideal, claim):
    many: Statistics = replace(ideal.statistics, **{STATISTICS[claim]: Measurement(0.6, n=80, unit="share")})
    assert strongest(judge(replace(ideal, statistics=many))).claim.name == claim


def test_edits_erasures_contexts_and_halves_can_speak_against_it(ideal, found):
    def said(**parts) -> dict[str, float]:
        return {each.claim.name: each.against for each in judge(replace(ideal, **parts))}

    share = {"n": 40, "unit": "share"}
    succeeding = edits_with(
        found, success=Measurement(0.8, **share), random={"success": Measurement(0.6, **share)}
    )
    assert said(edits=succeeding.edits)["edit-random"] == pytest.approx(0.75)
    lost = {
        ("own", "own"): Measurement(0.5, 0.4, 0.6, **share),
        ("own", "others"): Measurement(0.45, **share),
        ("random", "own"): Measurement(0.01, **share),
        ("random", "others"): None,
    }
    judged = said(erasures=replace(found.erasures, lost=lost))
    assert (judged["erase"], judged["erase-others"], judged["erase-random"]) == pytest.approx((0, 0.9, 0.02))
    relative = {
        (context, group): Measurement(value, n=80, unit="count")
        for context, group, value in (
            ("fact", "own", 1.0),
            ("subject", "own", 0.95),
            ("relation", "own", 1.2),
            ("random", "own", 0.0),
        )
    }
    judged = said(contexts=replace(found.contexts, relative=relative))
    assert (judged["active-subject"], judged["active-relation"], judged["active-random"]) == (0.95, 1, 0)
    halves = {"same": 0.5, "relation": 0.45, "random": 0.01}
    stability = replace(
        found.stability, **{name: Measurement(each, n=80, unit="overlap") for name, each in halves.items()}
    )
    judged = said(stability=stability)
    assert (judged["stable"], judged["stable-relation"], judged["stable-random"]) == (0.5, 0.9, 0.02)


def judged_of(findings: Findings) -> dict[str, float]:
    return {each.claim.name: each.against for each in judge(findings)}


def test_an_effect_of_a_thousandth_is_not_all_that_is_claimed(ideal):
    small = judged_of(changed(ideal, {("suppress", "own"): -0.02, ("amplify", "own"): 0.06}))
    assert (small["suppress"], small["amplify"]) == pytest.approx((0.8, 0.4))
    assert "suppress-random" not in small
    assert judged_of(changed(ideal, {("suppress", "own"): -0.1}))["suppress"] == 0


def edits_with(found: Findings, *, random: dict | None = None, **own) -> Findings:
    """The findings with other scores of edits."""
    strengths = found.edits.strengths[0]
    scores = {
        (strengths, "own"): found.edits.of_group("own") | own,
        (strengths, "random"): found.edits.of_group("random") | (random or {}),
    }
    return replace(found, edits=replace(found.edits, scores=scores))


def test_an_inverse_relation_that_was_never_answered_says_nothing(found):
    never = edits_with(
        found, symmetry=None, symmetry_before=Measurement(0.0, 0.0, 0.16, 20, "edits", "share")
    )
    assert "edit-symmetry" not in judged_of(never)
    text = markdown(never)
    assert "the inverse relation was not answered before either" in text
    row = next(line for line in text.splitlines() if line.startswith("| Symmetry"))
    assert "does not apply<br>answered before the edit: 0.0\u00a0%" in row
    turned = edits_with(
        found,
        symmetry=Measurement(0.25, n=8, of="edits", unit="share"),
        symmetry_before=Measurement(0.4, n=20, of="edits", unit="share"),
    )
    assert judged_of(turned)["edit-symmetry"] == 0.75


def test_symmetry_counts_prompts_that_were_answered_before(sample, tables):
    rows = Atlas(sample).query("SELECT *, fact_id AS edit FROM edits WHERE kind = 'edited'")
    rows = rows.assign(kind="symmetry", rank_new_after=1, rank_old_before=2)
    assert studies._scores(rows)["symmetry"] is None
    assert studies._scores(rows)["symmetry_before"].value == 0
    rows.loc[rows.index[:4], "rank_old_before"] = 1
    rows.loc[rows.index[:1], "rank_new_after"] = 7
    assert studies._scores(rows)["symmetry"].value == pytest.approx(0.75)
    assert studies._scores(rows)["symmetry_before"].value == pytest.approx(4 / len(rows))


def test_an_edit_without_effect_is_not_credited_with_sparing_others(found):
    share = {"n": 40, "of": "edits", "unit": "share"}
    random = {"success": Measurement(0.02, 0.0, 0.1, **share), "same_kept": Measurement(0.8, **share)}
    kept = {"same_kept": Measurement(0.6, **share)}
    idle = edits_with(found, random=random, success=Measurement(0.05, 0.01, 0.12, **share), **kept)
    assert "edit-same" not in judged_of(idle)
    works = edits_with(found, random=random, success=Measurement(0.7, 0.6, 0.8, **share), **kept)
    assert judged_of(works)["edit-same"] == 0.25


def test_a_method_of_a_weaker_effect_is_not_of_like_effect(found):
    def with_effect(suppressed: float) -> Findings:
        rows = dict(found.methods.rows)
        for method in ("gradient_x_activation", "log_prob_increase", "activation"):
            if (method, "count") in rows:
                rows[method, "count"] = replace(
                    rows[method, "count"],
                    suppressed=Measurement(suppressed, n=20),
                    gradients=Measurement(-0.8, n=20),
                    overlap=Measurement(0.25, n=20, unit="overlap"),
                )
        return replace(found, methods=replace(found.methods, rows=rows))

    assert "methods" not in judged_of(with_effect(-0.5))
    assert judged_of(with_effect(-0.7))["methods"] == 0.75


def test_neurons_that_are_less_active_are_no_match(ideal):
    rows = ideal.effects.rows.assign(activity=0.9)
    near = replace(ideal, effects=type(ideal.effects)(rows))
    assert {"suppress-matched", "amplify-matched"} <= set(judged_of(near))
    assert ", 0.90 × as active as its own" in markdown(near)
    far = replace(ideal, effects=type(ideal.effects)(rows.assign(activity=0.34)))
    assert not {"suppress-matched", "amplify-matched"} & set(judged_of(far))
    assert "0.34 × as active as its own neurons, which are their layers' most active" in markdown(far)


def test_a_plain_mean_that_goes_the_other_way_is_said_to(found):
    def said(**means: float) -> str:
        plain = {(context, "own"): Measurement(each, n=80, unit="count") for context, each in means.items()}
        plain |= {key: number for key, number in found.contexts.activation.items() if key[1] != "own"}
        return markdown(replace(found, contexts=replace(found.contexts, activation=plain)))

    text = said(fact=-0.95, relation=-0.81, subject=0.54, random=0.79)
    assert "goes the other way than the paper's order" in text
    assert "asked for −0.95, asked of others −0.81, subject only 0.54, neither 0.79" in text
    assert "does not have the paper's order" in said(fact=1, relation=1.2, subject=0.5, random=0.1)
    assert "largest where the fact is asked for, as in the paper" in said(
        fact=1, relation=0.9, subject=0.5, random=0.1
    )


def test_the_papers_mode_is_said_to_miss_its_target(found):
    def said(neurons: float) -> str:
        modes = found.statistics.modes.copy()
        modes.loc[modes["mode"] == "paper", "mean_neurons"] = neurons
        return markdown(replace(found, statistics=replace(found.statistics, modes=modes)))

    assert "it has 46.71: **it misses its target**" in said(46.71)
    assert "misses its target" not in said(4.0)


def test_what_counts_few_is_not_the_strongest_finding(ideal):
    few = replace(ideal.statistics, commonest=Measurement(0.9, n=10, unit="share"))
    assert strongest(judge(replace(ideal, statistics=few))).claim.name == "hub"  # there is no other
    both = replace(few, identical=Measurement(0.6, n=80, unit="share"))
    assert strongest(judge(replace(ideal, statistics=both))).claim.name == "identical"


def test_a_control_is_not_judged_where_there_is_no_effect(ideal):
    against = changed(ideal, {("amplify", "own"): -0.05, ("amplify", "matched"): 0.3})
    assert "amplify-matched" not in {each.claim.name for each in judge(against)}
    assert "does not apply" in markdown(against)


def test_every_claim_has_a_name_of_its_own():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


# Atlases that lack something -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "small", n_facts=24)


def without(folder: Path, out: Path, *tables: str, atlas_id: str = "sample") -> Path:
    """A copy of an atlas that lacks these tables."""
    shutil.copytree(folder, out)
    for table in tables:
        (out / f"{table}.parquet").unlink()
    write_manifest(out, replace(read_manifest(out), files=record_files(out), atlas_id=atlas_id))
    return out


@pytest.mark.parametrize("table", OPTIONAL)
def test_a_table_that_is_absent_is_not_measured(table, small, tmp_path):
    text = markdown(gather(Atlas(without(small, tmp_path / "less", table))))
    assert "## 7 How it was measured" in text
    sections_of = {
        "edits": "2 Update",
        "erasures": "3 Erase",
        "contexts": "4 What activates them",
        "statistics": "5 Statistics",
        "stability": "6 Thesis checks",
        "subsets": "6 Thesis checks",
        "methods": "6 Thesis checks",
    }
    if table in sections_of:
        section = text.split(f"## {sections_of[table]}")[1].split("\n## ")[0]
        assert f"sample: {NOT_MEASURED}." in section


def test_an_atlas_of_neurons_alone_has_statistics_and_nothing_else(small, tmp_path):
    bare = gather(Atlas(without(small, tmp_path / "bare", *OPTIONAL)))
    assert bare.statistics.neurons is not None
    text = markdown(bare)
    assert text.count(f"sample: {NOT_MEASURED}.") == 8
    pictures = [block for block in sections.report_blocks([bare]) if isinstance(block, page.Pictures)]
    assert [figure.name for block in pictures for figure in block.figures] == [
        "layers--sample",
        "neurons--sample",
        "sharing--sample",
    ]


def test_an_atlas_without_any_neuron_is_reported(small, tmp_path):
    folder = without(small, tmp_path / "empty", *OPTIONAL)
    replace_table(folder, "knowledge_neurons", empty_table("knowledge_neurons"))
    assert "24 facts have none" in markdown(gather(Atlas(folder)))


def test_several_atlases_are_columns_of_one_report(found, small, tmp_path):
    folder = without(small, tmp_path / "other", "edits", "erasures", atlas_id="other")
    text = markdown(found, gather(Atlas(folder)))
    assert "| what | paper | replication | sample | other |" in text
    update = text.split("## 2 Update")[1].split("\n## ")[0]
    row = next(line for line in update.splitlines() if line.startswith("| Success rate"))
    *_, of_sample, of_other = (cell.strip() for cell in row.strip("|").split("|"))
    assert of_sample.startswith(f"**{found.edits.of_group('own')['success'].number()}**")
    assert of_other == NOT_MEASURED


@needs_published
def test_the_published_neurons_give_the_replications_numbers(tmp_path):
    out = tmp_path / "published"
    command = ["import-published", "--source", str(SOURCE), "--pararel", str(PARAREL), "--out", str(out)]
    assert main(command) == 0
    text = markdown(gather(Atlas(out)))
    statistics = text.split("## 5 Statistics")[1].split("\n## ")[0]
    same = [line for line in statistics.splitlines() if "beside the replication: the same number" in line]
    # Two facts of a relation share 3.22 in a sample and 3.23 exactly.
    assert len(same) == 5
    for number in ("**11.04**", "**0.38**", "**94.1\u00a0%**", "**24.2\u00a0%**", "**91.4\u00a0%**"):
        assert any(number in line.split("|")[-2] for line in same), number
    assert "`L10.N2484`" in statistics
    assert "It holds neurons that others published" in text


# The files -------------------------------------------------------------------------------------------


def test_the_command_writes_a_report_and_every_chart_three_ways(written):
    names = {path.stem for path in (written / "figures").glob("*.svg")}
    assert names == {
        f"{name}--sample"
        for name in (
            *("suppress", "suppress-by-relation", "amplify", "amplify-by-relation", "update", "erase-doses"),
            *("erase-by-relation", "contexts", "layers", "neurons", "sharing", "thresholds-neurons"),
            *("thresholds-commonest", "stability", "subsets", "methods"),
        )
    }
    for ending in ("png", "html"):
        assert {path.stem for path in (written / "figures").glob(f"*.{ending}")} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.glob("figures/*.png"))


def test_the_same_atlas_gives_the_same_bytes(written, sample, tmp_path):
    again = tmp_path / "again"
    assert main(["figures", str(sample), "--out", str(again)]) == 0
    files = {path.relative_to(written): path.read_bytes() for path in written.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()
    }


def test_the_page_needs_no_other_file(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 16
    assert not re.search(r"<(img|script|link|iframe)\b|@import|url\(\s*[\"']?(?!#)", text)
    # Ids of several charts in one page are apart, and what refers to them finds them.
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_links_of_the_report_lead_to_files(written):
    for name in ("report.html", "report.md"):
        text = (written / name).read_text(encoding="utf-8")
        linked = set(re.findall(r'(?:href="|\]\()(figures/[^")]+)', text))
        assert len(linked) >= 32
        assert all((written / target).is_file() for target in linked)


def test_charts_in_the_page_take_the_colour_of_its_text(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert look.INK not in text.split("</style>")[1]
    assert "currentColor" in text
    alone = (written / "figures" / "layers--sample.svg").read_text(encoding="utf-8")
    assert look.INK in alone
    assert f'fill="{look.WHITE}"' in alone


def test_interactive_charts_have_their_script_beside_them(written):
    for path in (written / "figures").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'src="([^"]+)"', text) == ["vega.js"]
        assert "https://" not in re.sub(r'"\$schema": "[^"]+"', "", text)
        json.JSONDecoder().raw_decode(text.split('vegaEmbed("#chart", ')[1])
    assert (written / "figures" / "vega.js").stat().st_size > 500_000


def test_words_of_an_atlas_are_words_in_the_page():
    label = "a|b *c* <script>d</script> `e` [f](g)"
    blocks = [page.Table(("name", "n"), ((page.escape_marks(label), "1"),))]
    text = page.html(blocks, title="t")
    assert "a|b *c* &lt;script&gt;d&lt;/script&gt; `e` [f](g)" in text
    assert page.markdown(blocks).splitlines()[2].count(" | ") == 1


def test_a_label_cannot_end_the_script_of_a_chart():
    import altair as alt

    chart = alt.Chart({"values": [{"x": "</script><b>"}]}).mark_point().encode(x="x:N")
    text = Figure("name", "words", chart).html
    assert text.count("</script>") == 2
    assert "<b>" not in text.split("vegaEmbed(")[1].split("</script>")[0].replace("<\\/script><b>", "")


@pytest.mark.skipif(CHROMIUM is None, reason="No Chromium: install Debian's package `chromium`.")
def test_a_phone_shows_the_report_and_its_charts_offline(written):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
        shown = context.new_page()
        errors: list[str] = []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto((written / "report.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        shown.get_by_role("link", name="interactive").first.click()
        shown.wait_for_selector("#chart svg.marks", timeout=60_000)
        assert errors == []
        browser.close()


# The folder, and what is wrong -----------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(sample, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert main(["figures", str(sample), "--out", str(out)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    # An atlas is such a folder, too.
    assert main(["figures", str(sample), "--out", str(sample)]) == 2


def test_an_earlier_report_is_replaced(written, small, tmp_path):
    out = tmp_path / "report"
    shutil.copytree(written, out)
    (out / "report.md").write_text("old")
    folder = without(small, tmp_path / "bare", *OPTIONAL, atlas_id="bare")
    assert main(["figures", str(folder), "--out", str(out)]) == 0
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# ")
    assert {path.stem for path in out.glob("figures/*.png")} == {
        "layers--bare",
        "neurons--bare",
        "sharing--bare",
    }
    (out / "figures" / "note.txt").write_text("mine")
    assert main(["figures", str(folder), "--out", str(out)]) == 2
    assert (out / "figures" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["absent", "no atlas", "twice", "out is a file"])
def test_bad_input_gets_a_sentence(what, sample, tmp_path, refused):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    arguments, said = {
        "absent": ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")], "There is no folder"),
        "no atlas": ([str(tmp_path / "folder"), "--out", str(tmp_path / "out")], "not a finished atlas"),
        "twice": ([str(sample), str(sample), "--out", str(tmp_path / "out")], "was given twice"),
        "out is a file": ([str(sample), "--out", str(tmp_path / "file")], "is a file"),
    }[what]
    assert said in refused("figures", *arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_package_that_draws_there_is_one_sentence(sample, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # how Python marks what cannot be imported
    assert "requirements-dev.txt" in refused("figures", sample, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_model_is_loaded_for_a_report(sample):
    code = (
        "import sys; from atlas.store.atlas import Atlas; from build.report import sections; "
        "from build.report.findings import gather; sections.report_blocks([gather(Atlas(sys.argv[1]))]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(sample)], cwd=ROOT, check=True)
