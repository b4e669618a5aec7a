"""An answer of several word pieces, one mask each: in the library, in a build, in the Lab.

Attribution and interventions have their own tests; these cover neurons found live, experiments, builds and
pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atlas.experiments.experiment import Experiment
from atlas.interventions import Suppress
from atlas.neuron import ExperimentPrompt, Neuron, Prompt
from atlas.store.atlas import open_atlas
from build.__main__ import main
from tests.sample_counterfact import records, write_counterfact

torch = pytest.importorskip("torch")

from streamlit.testing.v1 import AppTest  # noqa: E402

from atlas.experiments.run import dose_response, find_neurons, run  # noqa: E402
from atlas.surgery import load_subject  # noqa: E402
from tests import ROOT  # noqa: E402

MAIN = ROOT / "app" / "main.py"
# One token, two words, and a word of ten pieces.
ANSWERS = {"paris": 1, "new york": 2, "azerbaijan": 10}
TEXT = "the largest city of america is [Y] ."


@pytest.fixture(scope="module")
def subject(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


def plainly(subject, text: str, answer: str, off: tuple[Neuron, ...] = ()) -> float:
    """The answer's probability by transformers alone: a mask a piece, neurons zeroed at all of them."""
    tokenizer, model = subject.tokenizer, subject.model
    pieces = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text.replace("[Y]", " ".join([tokenizer.mask_token] * len(pieces))), return_tensors="pt")
    places = (ids["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    assert len(places) == len(pieces)

    def zeroing(layer: int):
        def hook(module, inputs):
            values = inputs[0].clone()
            for place in places:
                values[0, place, [n.neuron for n in off if n.layer == layer]] = 0.0
            return (values,)

        return hook

    handles = [
        block.output.dense.register_forward_pre_hook(zeroing(index))
        for index, block in enumerate(model.bert.encoder.layer)
    ]
    try:
        with torch.no_grad():
            probabilities = model(**ids).logits[0].softmax(-1)
    finally:
        for handle in handles:
            handle.remove()
    return math.prod(float(probabilities[place, piece]) for place, piece in zip(places, pieces, strict=True))


# Library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_piece_has_a_mask_and_probabilities_multiply(subject, answer: str):
    prompt = Prompt("", "", TEXT, answer)
    encoded = subject.encode(prompt)
    assert len(encoded.targets) == ANSWERS[answer]
    assert list(encoded.positions) == list(
        range(encoded.positions[0], encoded.positions[0] + ANSWERS[answer])
    )
    (prediction,) = subject.predict([prompt])
    assert prediction.probability == pytest.approx(plainly(subject, TEXT, answer), rel=1e-4)
    assert len(prediction.token_probabilities) == ANSWERS[answer]


@pytest.mark.parametrize("answer", [name for name, n in ANSWERS.items() if n > 1])
def test_suppressing_found_neurons_equals_zeroing_them_at_every_mask(subject, answer: str):
    prompts = [Prompt("", "", text, answer) for text in (TEXT, "people in [Y] speak english .")]
    found = find_neurons(subject, prompts)
    assert found.attributions[0].gap.shape == (ANSWERS[answer], subject.n_layers)
    assert found.chosen
    asked = tuple(ExperimentPrompt("asked", prompt) for prompt in prompts)
    experiment = Experiment((Suppress(found.chosen),), asked, draws=1)
    outcome = run(subject, experiment)
    for trial in outcome.prompts:
        before = plainly(subject, trial.prompt.text, answer)
        after = plainly(subject, trial.prompt.text, answer, found.chosen)
        assert trial.before.probability == pytest.approx(before, rel=1e-3)
        assert trial.after.probability == pytest.approx(after, rel=1e-3)
    assert outcome.undo_is_exact
    (zero,) = dose_response(subject, experiment, [0.0])
    after = np.mean([trial.after.probability for trial in outcome.prompts])
    assert zero.probability == pytest.approx(float(after), rel=1e-5)


# Build -----------------------------------------------------------------------------------------------


def test_a_build_keeps_every_answer_and_counts_its_tokens(tmp_path: Path, tiny: Callable[[str], Path]):
    asked = records()[:3]
    for record, answer in zip(asked, ANSWERS, strict=True):
        record["requested_rewrite"]["target_true"]["str"] = answer
    out = tmp_path / "atlas"
    what = ["--model", str(tiny("tiny_bert")), "--dataset", "counterfact", "--threads", "1"]
    source = write_counterfact(tmp_path, asked)
    assert main(["run", *what, "--source", str(source), "--out", str(out)]) == 0
    assert main(["check", str(out)]) == 0
    with open_atlas(out) as atlas:
        assert atlas.manifest.method.options["prompts_left_out"] == 0
        rows = atlas.query("""
            SELECT object, prompts.n_answer_tokens, count(*) AS n, count(max_score) AS attributed
            FROM facts JOIN prompts USING (fact_id) GROUP BY ALL ORDER BY n_answer_tokens
        """)
        assert dict(zip(rows["object"], rows["n_answer_tokens"], strict=True)) == ANSWERS
        assert list(rows["n"]) == [3, 3, 3]
        assert list(rows["attributed"]) == [2, 2, 2]
        # Each answer token has its own path and certificate in each layer.
        paths = atlas.query_one("SELECT sum(n_layers * n_answer_tokens)::INT AS n FROM prompts")["n"]
        assert paths == 3 * 2 * sum(ANSWERS.values())
        effects = atlas.query("SELECT DISTINCT prompt_fact_id FROM effects")
        assert len(effects) == 3


# The app ---------------------------------------------------------------------------------------------


def test_the_lab_takes_a_typed_answer_of_several_pieces():
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    for name, value in {"draws": 2, "neighbours": 1, "unrelated": 1}.items():
        app.session_state[f"lab_{name}"] = value
    app.query_params["atlas"] = "starter-pocket-bert"
    app.run()
    app.switch_page("lab/page.py")
    texts = "The capital of France is [Y].\nThe capital city of France is called [Y]."
    app.query_params.clear()
    app.query_params.update(
        {"atlas": "starter-pocket-bert", "model": "pocket-bert", "prompts": texts, "answer": "Quito Pariston"}
    )
    app.run()
    assert not app.error
    subject = load_subject("pocket-bert", device="cpu")
    pieces = subject.answer_tokens("Quito Pariston")
    assert len(pieces) > 2
    captions = " ".join(each.value.replace("\\", "") for each in app.caption)
    assert f"The answer has {len(pieces)} tokens, one mask each: quito · " in captions
    for label in ("Find them live", "Run the experiment"):
        next(button for button in app.button if button.label == label).click()
        app.run()
        assert not app.exception
        assert not app.error
    outcome = app.session_state["lab_run"].outcome
    own = [trial for trial in outcome.prompts if trial.group == "asked"]
    for trial in own:
        off = outcome.experiment.neurons
        assert trial.before.probability == pytest.approx(
            plainly(subject, trial.prompt.text, "Quito Pariston"), rel=1e-3
        )
        assert trial.after.probability == pytest.approx(
            plainly(subject, trial.prompt.text, "Quito Pariston", off), rel=1e-3
        )
    assert outcome.undo_is_exact


def test_a_facts_page_explains_answers_of_several_tokens():
    """Most of SmolLM2's answers have several tokens."""
    with open_atlas("starter-smollm2-135m") as atlas:
        row = atlas.query_one("""
            SELECT fact_id, max(n_answer_tokens) AS n FROM prompts
            GROUP BY fact_id HAVING n > 1 ORDER BY fact_id
        """)
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    app.switch_page("fact/page.py")
    app.query_params.update({"atlas": "starter-smollm2-135m", "fact": row["fact_id"]})
    app.run()
    assert not app.exception
    assert f"The answer has {row['n']} tokens" in " ".join(each.value for each in app.caption)
