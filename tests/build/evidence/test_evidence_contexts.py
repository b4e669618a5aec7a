"""What activates a fact's neurons: which sentences are asked, and rows from activations read by hand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas.neuron import Prompt
from atlas.store.atlas import DATA, Atlas
from atlas.store.manifest import read_manifest
from build.evidence import STUDIES
from build.evidence.contexts import (
    CONTEXT_KINDS,
    NEUTRAL,
    SENTENCES,
    activation_levels,
    draw_sentences,
    mean_levels,
    measure,
    share_above,
    summary,
    units,
)
from build.evidence.setting import AtlasFact, Setting
from build.output.check import check_rows
from tests.sample_atlas import replace_table, write_sample_atlas

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(Atlas(DATA / "starter-pocket-bert"), "pocket-bert", sample=30)


@pytest.fixture(scope="module")
def facts(setting: Setting) -> list[AtlasFact]:
    """Facts of the sample, and two that the atlas knows more of."""
    several = setting.atlas.query("""
        SELECT min(fact_id) AS fact_id FROM facts WHERE n_neurons > 0 GROUP BY subject
        HAVING count(DISTINCT relation_id) >= 3 AND count(DISTINCT object) >= 3 ORDER BY 1 LIMIT 2
    """)
    assert len(several) == 2
    return [*setting.sampled("contexts"), *(setting.by_id[fact_id] for fact_id in several["fact_id"])]


# --- sentences ---


def test_every_context_has_four_sentences_that_share_what_they_may(setting, facts):
    stored = (
        setting.atlas.query(
            "SELECT fact_id, template_id, text, held_out, relation_id, subject, object "
            "FROM prompts JOIN facts USING (fact_id)"
        )
        .set_index(["fact_id", "template_id"])
        .to_dict("index")
    )
    other_relations = 0
    for fact in facts:
        sentences = draw_sentences(setting, fact)
        assert tuple(sentences) == CONTEXT_KINDS
        relation, subject, answer = fact.relation_id, fact.fact.subject.lower(), fact.fact.object.lower()
        for context, prompts in sentences.items():
            assert len({prompt.text for prompt in prompts}) == SENTENCES, (fact.fact_id, context)
            about = []
            for prompt in prompts:
                if prompt.template_id.startswith("neutral"):
                    assert context == "subject"
                    assert prompt.text in {pattern.replace("[X]", fact.fact.subject) for pattern in NEUTRAL}
                    assert prompt.answer == fact.fact.object  # as many masks as it needs
                    continue
                row = stored[prompt.fact_id, prompt.template_id]
                assert (row["text"], row["object"]) == (prompt.text, prompt.answer)
                assert row["held_out"]
                about.append(
                    (
                        row["relation_id"] == relation,
                        row["subject"].lower() == subject,
                        row["object"].lower() == answer,
                    )
                )
            if context == "fact":
                assert {prompt.fact_id for prompt in prompts} == {fact.fact_id}
                continue
            shared = {
                "subject": (False, True, False),
                "relation": (True, False, False),
                "random": (False,) * 3,
            }
            assert set(about) <= {shared[context]}
            if context == "subject":
                other_relations += len(about)
                assert len(about) <= SENTENCES // 2
            else:
                assert len({prompt.fact_id for prompt in prompts}) == SENTENCES
    assert other_relations > 0


def test_a_subject_of_other_relations_is_asked_for_two_of_them_where_the_atlas_has_them(setting, facts):
    for fact in facts[-2:]:
        about = [each for each in draw_sentences(setting, fact)["subject"] if each.fact_id != fact.fact_id]
        assert len({prompt.fact_id for prompt in about}) == 2


def test_where_all_facts_are_about_one_subject_there_are_no_others_to_ask(setting, facts):
    subject = facts[-1].fact.subject
    narrow = Setting(setting.atlas, "pocket-bert")
    narrow.subject = setting.subject
    narrow.facts = tuple(fact for fact in setting.facts if fact.fact.subject == subject)
    assert len({fact.relation_id for fact in narrow.facts}) >= 3
    sentences = draw_sentences(narrow, facts[-1])
    assert {context: len(prompts) for context, prompts in sentences.items()} == {
        "fact": SENTENCES,
        "subject": SENTENCES,
        "relation": 0,
        "random": 0,
    }


def test_sentences_depend_on_the_seed_and_the_fact_alone(setting, facts):
    alone = Setting(setting.atlas, "pocket-bert", sample=3)
    other = Setting(setting.atlas, "pocket-bert", seed=1)
    alone.subject = other.subject = setting.subject
    for fact in facts[:5]:
        assert draw_sentences(alone, fact) == draw_sentences(setting, fact)
        assert draw_sentences(other, fact)["random"] != draw_sentences(setting, fact)["random"]


def test_neutral_sentences_end_with_the_answer_so_that_causal_models_can_be_asked(tiny_gpt2, sample):
    with Atlas(sample) as atlas:
        setting = Setting(atlas, str(tiny_gpt2))
        fact = setting.facts[0]
        asked = draw_sentences(setting, fact)["subject"]
        assert len(asked) == SENTENCES
        assert all(prompt.ends_with_answer and fact.fact.subject in prompt.text for prompt in asked)
        # 64 tokens are what this model reads.
        long = replace(fact, fact=replace(fact.fact, subject="very " * 70 + "long"))
        assert draw_sentences(setting, long)["subject"] == []


# --- the rows, from the model by hand ---


@pytest.fixture(scope="module")
def by_hand():
    """A function: prompt → activation of any neuron at its first mask, by transformers alone."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from atlas.models import locate

    folder = locate("pocket-bert").folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()

    def read(prompt: Prompt) -> list[list[float]]:
        seen: list[list[float]] = []
        n_masks = len(tokenizer(prompt.answer, add_special_tokens=False)["input_ids"])
        text = prompt.text.replace("[Y]", " ".join(["[MASK]"] * n_masks))
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        place = int((ids[0] == tokenizer.mask_token_id).nonzero()[0])
        handles = [
            layer.output.dense.register_forward_pre_hook(
                lambda module, args: seen.append(args[0][0, place].tolist())
            )
            for layer in model.bert.encoder.layer
        ]
        with torch.no_grad():
            model(ids)
        for handle in handles:
            handle.remove()
        return seen

    return read


def test_a_row_is_what_the_activations_read_by_hand_give(setting, facts, by_hand):
    chosen = [facts[0], facts[7], facts[-1]]
    rows = pd.DataFrame(measure(setting, [fact.fact_id for fact in chosen]))
    assert len(rows) == len(chosen) * len(CONTEXT_KINDS) * 2
    for fact in chosen:
        groups = {"own": fact.neurons, "random": setting.random_neurons(fact.neurons, "random", fact.fact_id)}
        assert not set(groups["own"]) & set(groups["random"])
        discovery = [by_hand(each.prompt) for each in fact.prompts if not each.held_out]
        assert len(discovery) == 4
        for context, prompts in draw_sentences(setting, fact).items():
            heard = [by_hand(prompt) for prompt in prompts]
            for group, neurons in groups.items():
                plain, relative = [], []
                for neuron in neurons:
                    values = [each[neuron.layer][neuron.neuron] for each in heard]
                    found = [each[neuron.layer][neuron.neuron] for each in discovery]
                    unit = statistics.fmean(value**2 for value in found) ** 0.5
                    sign = -1 if sum(found) < 0 else 1
                    plain += values
                    if unit > 0:  # a random neuron may be silent
                        relative.append(sign * statistics.fmean(values) / unit)
                [row] = rows[
                    (rows["fact_id"] == fact.fact_id)
                    & (rows["context"] == context)
                    & (rows["group"] == group)
                ].itertuples()
                assert (row.n_neurons, row.n_prompts) == (len(fact.neurons), SENTENCES)
                assert row.activation == pytest.approx(statistics.fmean(plain), rel=1e-4, abs=1e-6)
                assert row.magnitude == pytest.approx(statistics.fmean(map(abs, plain)), rel=1e-4)
                assert row.relative == pytest.approx(statistics.median(relative), rel=1e-3, abs=1e-5)


def test_rows_do_not_depend_on_what_else_is_in_their_unit(setting, facts):
    [unit, *_] = units(setting)
    together = pd.DataFrame(measure(setting, unit))
    alone = pd.DataFrame(row for fact_id in unit for row in measure(setting, [fact_id]))
    assert len(unit) == 12
    own = together["group"] == "own"
    pd.testing.assert_frame_equal(together[own], alone[own], rtol=1e-3, atol=1e-5)
    # A random neuron that hardly speaks on the discovery prompts can have another sign by rounding alone.
    pd.testing.assert_frame_equal(together, alone, rtol=1e-3, atol=0.02)
    plain = ["activation", "magnitude"]
    pd.testing.assert_frame_equal(together[plain], alone[plain], rtol=1e-3, atol=1e-5)


def test_each_different_sentence_of_a_unit_goes_through_the_model_once(setting):
    class Counting(Setting):
        def activations(self, prompts):
            self.asked = [(prompt.text, prompt.answer) for prompt in prompts]
            return super().activations(prompts)

    counting = Counting(setting.atlas, "pocket-bert")
    counting.subject = setting.subject
    unit = [fact.fact_id for fact in setting.by_relation["P37"][:12]]  # they ask for each other
    measure(counting, unit)
    wanted = [
        (prompt.text, prompt.answer)
        for fact in map(setting.by_id.get, unit)
        for prompt in (
            *(each.prompt for each in fact.discovery),
            *(prompt for prompts in draw_sentences(setting, fact).values() for prompt in prompts),
        )
    ]
    assert len(counting.asked) == len(set(counting.asked))
    assert set(counting.asked) == set(wanted)
    assert len(wanted) > len(counting.asked)


def test_a_context_without_sentences_has_no_row(setting, facts):
    lonely = Setting(setting.atlas, "pocket-bert")
    lonely.subject = setting.subject
    lonely.facts = (facts[0],)
    found = {(row["context"], row["group"]) for row in measure(lonely, [facts[0].fact_id])}
    assert found == {(context, group) for context in ("fact", "subject") for group in ("own", "random")}


def test_a_neuron_s_unit_and_sign_are_those_of_the_discovery_prompts():
    # Three neurons: one that is negative there, one that is silent there, one loud.
    discovery = np.array([[-1.0, 0.0, 3.0], [-1.0, 0.0, -4.0]])
    found = activation_levels(np.array([[-2.0, 9.0, 1.0], [-1.0, 9.0, 0.0]]), discovery)
    unit = (25 / 2) ** 0.5
    assert found["activation"] == pytest.approx((-2 + 9 + 1 - 1 + 9 + 0) / 6)
    assert found["magnitude"] == pytest.approx(22 / 6)
    assert found["relative"] == pytest.approx((1.5 + -0.5 / unit) / 2)  # of the first and the last
    assert activation_levels(np.ones((2, 1)), np.zeros((3, 1)))["relative"] is None


# --- for a person ---


def rows_of(values: dict[tuple[str, str], list[float | None]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"fact_id": f"f{place}", "context": context, "group": group, "relative": value}
            for (group, context), several in values.items()
            for place, value in enumerate(several)
        ]
    )


def test_means_are_over_facts_and_their_intervals_are_about_two_standard_errors():
    values = np.random.default_rng(3).normal(0.6, 0.2, 200)
    rows = rows_of({("own", "fact"): [*values, None], ("own", "random"): [0.25] * 7})
    means = mean_levels(rows).set_index("context")
    assert means.loc["fact", "n_facts"] == 200
    assert means.loc["fact", "mean"] == pytest.approx(values.mean())
    error = 1.96 * values.std() / 200**0.5
    assert means.loc["fact", "low"] == pytest.approx(values.mean() - error, abs=error / 5)
    assert means.loc["fact", "high"] == pytest.approx(values.mean() + error, abs=error / 5)
    assert means.loc["random", ["mean", "low", "high"]].tolist() == pytest.approx([0.25] * 3)


def test_facts_are_counted_whose_neurons_have_more_where_the_fact_is_stated():
    rows = rows_of(
        {
            ("own", "fact"): [1.0, 0.9, 0.3, 0.5],
            ("own", "subject"): [0.2, 0.9, 0.4, None],  # equal is not more; one was not asked
            ("own", "random"): [0.0, 0.1, 0.2, 0.6],
            ("random", "fact"): [0.1, 0.1],
            ("random", "random"): [0.2, 0.3],
        }
    )
    found = share_above(rows).set_index(["group", "context"])
    assert found.loc["own", "subject"].tolist() == [3, pytest.approx(1 / 3)]
    assert found.loc["own", "random"].tolist() == [4, 0.75]
    assert found.loc["own", "relation"]["n_facts"] == 0
    assert found.loc["random", "random"].tolist() == [2, 0.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    others = tuple(
        table
        for study in STUDIES.values()
        for table in study.tables
        if not study.extends and table != "contexts"
    )
    return write_sample_atlas(tmp_path / "sample", leave_out=others)


def contexts_of(folder: Path, value: dict[str, float]) -> Iterator[dict]:
    """Every fact alike, its random neurons half as active; those it does not know twice as active."""
    with Atlas(folder) as atlas:
        facts = atlas.query("SELECT fact_id, n_neurons, known FROM facts WHERE n_neurons > 0")
    for fact in facts.itertuples():
        for group, scale in (("own", 1.0), ("random", 0.5)):
            for context, level in value.items():
                level *= scale * (1 if fact.known else 2)
                yield {
                    "fact_id": fact.fact_id,
                    "context": context,
                    "group": group,
                    "n_neurons": fact.n_neurons,
                    "n_prompts": 4,
                    "activation": -level,
                    "magnitude": 10 * level,
                    "relative": level,
                }


def test_the_summary_tells_known_facts_and_random_neurons_apart(folder):
    replace_table(folder, "contexts", list(contexts_of(folder, {"fact": 0.8, "subject": 0.1, "random": 1.0})))
    with Atlas(folder) as atlas:
        lines = {line.split("  ")[0]: line for line in summary(atlas)}
        share = atlas.query_one("SELECT avg((NOT known)::INT) AS u FROM facts WHERE n_neurons > 0")["u"]
    known = lines["known, relative, random neurons"]
    assert known.split("neurons")[1].split()[:3] == ["0.40", "[0.40,", "0.40]"]
    assert "0.05 [0.05, 0.05] 100%" in known
    assert "not asked" in known
    assert "0.50 [0.50, 0.50] 0%" in known
    assert "8.00 [8.00, 8.00]" in lines["known, magnitude, own neurons"]
    assert f"{0.8 * (1 + share):.2f} [" in lines["all, relative, own neurons"]


def test_contexts_that_contradict_themselves_or_their_fact_fail_the_check(folder):
    rows = list(contexts_of(folder, dict.fromkeys(CONTEXT_KINDS, 0.5)))
    sentence = "contexts lack an activation, or have a wrong number of neurons or sentences"

    def problems(change: dict) -> list[str]:
        replace_table(folder, "contexts", [rows[0] | change, *rows[1:]])
        return check_rows(folder, read_manifest(folder)).problems

    assert rows[0]["group"] == "own"
    assert problems({}) == problems({"relative": None}) == []
    for change in (
        {"activation": 100.0},  # more than its size
        {"magnitude": float("inf")},
        {"activation": None},
        {"relative": float("nan")},
        {"n_neurons": rows[0]["n_neurons"] + 1},
        {"n_prompts": 0},
        {"fact_id": "nobody"},
    ):
        assert problems(change) == [f"1 {sentence}"], change
