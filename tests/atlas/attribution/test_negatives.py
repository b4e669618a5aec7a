"""Negative examples remove neurons that other facts share: live, in stored scores, and in a build.

Expected results are counted with numpy and plain loops.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atlas import queries
from atlas.errors import PromptError
from atlas.neuron import Neuron, Prompt
from atlas.refinement import mode, negative_facts, refine, refine_scores
from atlas.store.atlas import open_atlas
from build.__main__ import main
from tests.sample_counterfact import write_counterfact

torch = pytest.importorskip("torch")

from atlas.experiments.run import find_neurons  # noqa: E402
from atlas.surgery import attribute, load_subject  # noqa: E402

PROMPTS = tuple(
    Prompt("", "", f"{words} of france is [Y] .", "paris") for words in ("the capital", "the old capital")
)
OTHERS = tuple(
    Prompt("", "", f"{words} of {land} is [Y] .", answer)
    for land, answer in (("italy", "rome"), ("japan", "tokyo"))
    for words in ("the capital", "the old capital")
)


def coarse_neurons(scores: np.ndarray, threshold: float = 0.2) -> set[Neuron]:
    """The coarse neurons of one prompt, from the definition."""
    if scores.max() <= 0:
        return set()
    return {Neuron(*map(int, place)) for place in np.argwhere(scores >= threshold * float(scores.max()))}


# Live ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


def test_neurons_of_half_the_negative_prompts_are_left_out(subject):
    own = [coarse_neurons(each.scores) for each in attribute(subject, PROMPTS)]
    theirs = Counter(n for each in attribute(subject, OTHERS) for n in coarse_neurons(each.scores))
    kept = own[0] & own[1]
    expected = {neuron for neuron in kept if theirs[neuron] < 2}
    assert expected < kept  # there is something to leave out
    found = find_neurons(subject, PROMPTS, negatives=OTHERS)
    assert set(found.chosen) == expected
    assert set(find_neurons(subject, PROMPTS).chosen) == kept
    assert found.negatives == OTHERS
    assert len(found.negative_attributions) == len(OTHERS)
    assert found.n_paths == 2 * subject.n_layers  # certificates are of its own prompts


def test_one_negative_prompt_is_enough(subject):
    (scores,) = [each.scores for each in attribute(subject, OTHERS[:1])]
    kept = set(find_neurons(subject, PROMPTS).chosen)
    expected = kept - coarse_neurons(scores)
    assert expected < kept
    assert set(find_neurons(subject, PROMPTS, negatives=OTHERS[:1]).chosen) == expected


def test_other_rules_apply_to_negative_prompts(subject):
    rule = mode("replication")
    own = Counter(n for each in attribute(subject, PROMPTS) for n in strictly(each.scores))
    theirs = Counter(n for each in attribute(subject, OTHERS) for n in strictly(each.scores))
    # More than 0.3 of two prompts, of four prompts.
    expected = {n for n, count in own.items() if count > 0.6 and not theirs[n] > 1.2}
    assert set(find_neurons(subject, PROMPTS, negatives=OTHERS, rule=rule).chosen) == expected


def strictly(scores: np.ndarray) -> set[Neuron]:
    return {Neuron(*map(int, place)) for place in np.argwhere(scores > 0.3 * scores.max())}


def test_a_prompt_that_is_its_own_negative_is_refused(subject):
    with pytest.raises(PromptError, match="also a negative example"):
        find_neurons(subject, PROMPTS, negatives=PROMPTS[1:])


def test_progress_counts_and_names_negative_prompts(subject):
    messages: list[tuple[float, str]] = []
    find_neurons(
        subject, PROMPTS, negatives=OTHERS[:2], progress=lambda share, text: messages.append((share, text))
    )
    told = ["Prompt 1 of 4", "Prompt 2 of 4", "Prompts 3 to 4 of 4", "Done"]
    assert [text for _, text in messages] == told
    assert messages[-1][0] == 1.0


def test_without_negatives_nothing_changes():
    scores = [np.array([[0.5, 1.0], [0.0, 0.2]]), np.array([[0.5, 1.0], [0.1, 0.0]])]
    rule = mode("default")
    assert refine_scores(scores, rule, negatives=[]) == refine_scores(scores, rule)
    # A negative prompt without a positive score has no coarse neurons, and takes none away.
    assert refine_scores(scores, rule, negatives=[-scores[0]]) == refine_scores(scores, rule)


# Stored scores ---------------------------------------------------------------------------------------


def test_negative_facts_are_the_next_ones_with_another_answer():
    members = [(f"f{n}", "one" if n % 3 == 0 else f"o{n}") for n in range(9)]
    for fact_id, answer in members:
        others = negative_facts(members, fact_id, 4)
        assert len(set(others)) == 4
        assert fact_id not in others
        assert all(dict(members)[other] != answer for other in others)
    assert negative_facts(members, "f1", 100) != negative_facts(members, "f1", 100, seed=1)
    assert set(negative_facts(members, "f0", 100)) == {m for m, o in members if o != "one"}
    assert negative_facts([("alone", "x")], "alone", 3) == []


def test_refining_one_fact_equals_refining_all(sample: Path):
    with open_atlas(sample) as atlas:
        tables = [atlas.query(f"FROM {name}") for name in ("attributions", "prompts", "facts")]
        whole = refine(*tables, mode("default", negatives=2, seed=3)).rows.to_pandas()
        usual = refine(*tables, mode("default")).rows.to_pandas()
        assert 0 < len(whole) < len(usual)
        for fact_id in tables[2]["fact_id"]:
            found = queries.rethreshold(atlas, fact_id, 0.2, 0.5, negatives=2, seed=3)
            wanted = whole[whole["fact_id"] == fact_id]
            assert set(zip(found["layer"], found["neuron"], strict=True)) == set(
                zip(wanted["layer"], wanted["neuron"], strict=True)
            )


# A build ---------------------------------------------------------------------------------------------


def test_a_build_records_and_checks_its_negatives(
    tmp_path: Path, tiny: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    what = ["--model", str(tiny("tiny_gpt2")), "--dataset", "counterfact"]
    what += ["--source", str(write_counterfact(tmp_path)), "--threads", "1"]
    neurons = {}
    for n in (0, 2):
        out = tmp_path / f"with-{n}"
        assert main(["run", *what, "--negatives", str(n), "--out", str(out)]) == 0
        assert main(["check", str(out)]) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["method"]["refinement"]["negatives"] == n
        with open_atlas(out) as atlas:
            neurons[n] = atlas.query("FROM knowledge_neurons")
            tables = [atlas.query(f"FROM {name}") for name in ("attributions", "prompts", "facts")]
        again = refine(*tables, mode("default", negatives=n)).rows.to_pandas()
        assert len(again) == len(neurons[n])
    assert 0 < len(neurons[2]) < len(neurons[0])
    # Other parameters are another atlas.
    capsys.readouterr()
    assert main(["run", *what, "--negatives", "1", "--out", str(tmp_path / "with-2")]) == 2
    assert "negatives 2 where this one has 1" in capsys.readouterr().err
