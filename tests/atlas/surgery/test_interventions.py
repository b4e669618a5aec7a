"""Interventions equal the same change made by hand, and leave the model unchanged."""

import copy
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas.errors import AtlasError, DocumentError, ModelError, PromptError
from atlas.neuron import Neuron, Prompt

torch = pytest.importorskip("torch")

from atlas.experiments.documents import interventions_from_json, interventions_to_json  # noqa: E402
from atlas.surgery import Amplify, Edit, Erase, Patch, SetTo, Suppress, by_sign, load_subject  # noqa: E402

FAMILIES = ("tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_qwen2")
NEURONS = (Neuron(0, 3), Neuron(1, 70), Neuron(1, 5), Neuron(2, 41))
# Answers of one and of two tokens, prompts of different lengths.
PROMPTS = (
    Prompt("f1", "t1", "the capital of france is [Y]", "paris"),
    Prompt("f2", "t1", "the official language of austria is [Y]", "german"),
    Prompt("f3", "t2", "the largest city of america is [Y]", "new york"),
)
OTHER_PROMPT = "the old town of rome lies in [Y]"
EVERY_KIND = (
    Suppress(NEURONS),
    Amplify(NEURONS, 3.0),
    SetTo(NEURONS, -2.5),
    Patch(NEURONS, OTHER_PROMPT),
    Erase(NEURONS),
    Edit(NEURONS, old="paris", new="rome"),
    [Suppress(NEURONS[:2]), Edit(NEURONS, old="paris", new="new york", remove=0.5, add=2)],
)
IDS = ["suppress", "amplify", "set", "patch", "erase", "edit", "list"]


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tiny: Callable[[str], Path]):
    return load_subject(str(tiny(request.param)), device="cpu")


@pytest.fixture(scope="module")
def bert(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


def value_rows(family, model, layer):
    """The value vectors as a tensor that can be written to: (n_neurons, d_model)."""
    weight = family.down(model, layer).weight.data
    return weight.T if isinstance(family.down(model, layer), torch.nn.Linear) else weight


def direction(subject, word):
    """The mean of the unembedding's rows of a word's tokens, (d_model,)."""
    space = " " if subject.family.kind == "causal" else ""
    tokens = subject.tokenizer.encode(f"{space}{word}", add_special_tokens=False)
    return subject.model.get_output_embeddings().weight[tokens].mean(0)


def logits_at_answers(subject, prompt, *, model=None):
    """One prompt alone through the plain model: (n_answer_tokens, n_tokens)."""
    encoded = subject.encode(prompt)
    with torch.no_grad():
        logits = (model or subject.model)(torch.tensor([encoded.input_ids])).logits[0]
    return logits[list(encoded.positions)].float()


def plain_probability(subject, prompt, *, model=None) -> float:
    logits = logits_at_answers(subject, prompt, model=model)
    targets = torch.tensor(subject.encode(prompt).targets)
    return float(logits.softmax(-1).gather(-1, targets[:, None]).prod())


def every_logit(subject):
    return torch.cat([logits_at_answers(subject, prompt) for prompt in PROMPTS])


def hooks_left(subject) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in subject.model.modules()
    )


def predicted(subject, change) -> list[float]:
    with subject.applied(change) as changed:
        return [each.probability for each in changed.predict(PROMPTS)]


# --- what each kind does ---


@contextmanager
def hooks_by_hand(subject, at_layer):
    handles = [
        subject.family.down(subject.model, layer).register_forward_pre_hook(at_layer(layer))
        for layer in range(subject.n_layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def there(subject, text: str) -> dict[Neuron, float]:
    """The activations of `NEURONS` where the text ends, or at its mask, by hooks of the test's own."""
    masked, found = subject.family.kind == "masked", {}
    ids = subject.tokenizer(text.replace("[Y]", "[MASK]") if masked else text.removesuffix(" [Y]")).input_ids
    place = ids.index(subject.tokenizer.mask_token_id) if masked else -1

    def keep(layer):
        return lambda module, args: found.update(
            {n: float(args[0][0, place, n.neuron]) for n in NEURONS if n.layer == layer}
        )

    with hooks_by_hand(subject, keep), torch.no_grad():
        subject.model(torch.tensor([ids]))
    return found


@pytest.mark.parametrize(
    "change",
    [
        Suppress(NEURONS),
        Amplify(NEURONS, 2.5),
        SetTo(NEURONS, -2.5),
        Patch(NEURONS, OTHER_PROMPT),
        [SetTo(NEURONS, 1.5), Amplify(NEURONS, -2.0)],
        [Amplify(NEURONS), SetTo(NEURONS[:2], 4), Patch(NEURONS[:1], OTHER_PROMPT), Suppress(NEURONS[1:2])],
        [Patch(NEURONS, OTHER_PROMPT), Amplify(NEURONS[2:], 3.0), SetTo(NEURONS[:1], 0.5)],
    ],
)
def test_changes_of_activations_equal_the_same_done_by_hand_in_the_order_of_the_list(subject, change):
    other = there(subject, OTHER_PROMPT)
    for prompt, got in zip(PROMPTS, predicted(subject, change), strict=True):
        positions = list(subject.encode(prompt).positions)

        def one_by_one(layer, positions=positions):
            def hook(module, args):
                for item in change if isinstance(change, list) else [change]:
                    for neuron in (each for each in item.neurons if each.layer == layer):
                        x = args[0][:, positions, neuron.neuron]
                        match item:
                            case Suppress():
                                x = 0.0 * x
                            case Amplify():
                                x = item.factor * x
                            case SetTo():
                                x = torch.full_like(x, item.value)
                            case Patch():
                                x = torch.full_like(x, other[neuron])
                        args[0][:, positions, neuron.neuron] = x

            return hook

        with hooks_by_hand(subject, one_by_one):
            wanted = plain_probability(subject, prompt)
        assert got == pytest.approx(wanted, rel=1e-5)
        assert got != pytest.approx(plain_probability(subject, prompt), rel=1e-3)


def test_a_patch_from_the_prompt_itself_changes_nothing(subject):
    prompt = PROMPTS[0]
    everything = tuple(Neuron(layer, index) for layer in range(3) for index in range(72))
    for text in (prompt.text, f"{prompt.text} ."):
        asked = Prompt("", "", text, "paris")
        before = subject.predict([asked])[0].probability
        patched = subject.predict([asked], interventions=[Patch(everything, text)])[0].probability
        assert patched == pytest.approx(before, rel=1e-5)


def test_a_patch_needs_a_prompt_that_the_model_can_read(subject):
    with pytest.raises(PromptError, match=r"has \d+ tokens, but"):
        predicted(subject, Patch(NEURONS, "is " * 200 + "[Y]"))
    if subject.family.kind == "causal":
        with pytest.raises(PromptError, match="continues after the answer"):
            predicted(subject, Patch(NEURONS, "the capital of [Y] is paris"))


@pytest.mark.parametrize("text", ["the capital is", "[Y] and [Y]", "half \ud83d [Y]", "", 7, None])
def test_a_patch_from_a_text_that_is_no_prompt_is_refused(text):
    with pytest.raises(AtlasError, match=r"places for the answer|half a character|must be text"):
        Patch(NEURONS, text)


def test_erasing_with_zero_equals_zeroed_rows_of_the_down_projection(subject):
    by_hand = copy.deepcopy(subject.model)
    for neuron in NEURONS:
        value_rows(subject.family, by_hand, neuron.layer)[neuron.neuron] = 0
    for prompt, got in zip(PROMPTS, predicted(subject, Erase(NEURONS)), strict=True):
        assert got == pytest.approx(plain_probability(subject, prompt, model=by_hand), rel=1e-4)


def test_erasing_with_the_unknown_token_writes_its_embedding(bert):
    by_hand = copy.deepcopy(bert.model)
    unknown = by_hand.cls.predictions.decoder.weight[bert.tokenizer.unk_token_id]
    for neuron in NEURONS:
        value_rows(bert.family, by_hand, neuron.layer)[neuron.neuron] = unknown
    for prompt, got in zip(PROMPTS, predicted(bert, Erase(NEURONS, "unk")), strict=True):
        assert got == pytest.approx(plain_probability(bert, prompt, model=by_hand), rel=1e-4)


def test_editing_equals_the_papers_formula_on_the_weights(subject):
    by_hand = copy.deepcopy(subject.model)
    old, new = (direction(subject, word) for word in ("paris", "new york"))
    for neuron in NEURONS:
        rows = value_rows(subject.family, by_hand, neuron.layer)
        value = rows[neuron.neuron].clone()
        size = value.norm()
        value = value - 1.0 * size / old.norm() * old + 8.0 * size / new.norm() * new
        rows[neuron.neuron] = value
    edit = Edit(NEURONS, old="paris", new="new york", remove=1.0, add=8.0)
    for prompt, got in zip(PROMPTS, predicted(subject, edit), strict=True):
        assert got == pytest.approx(plain_probability(subject, prompt, model=by_hand), rel=1e-3)


def test_an_edit_by_sign_is_mirrored_for_negative_activations(subject):
    active = subject.activations(PROMPTS).mean(0)
    every = [Neuron(layer, index) for layer in range(3) for index in range(8)]
    below = [neuron for neuron in every if active[neuron.layer, neuron.neuron] < 0]
    assert 0 < len(below) < len(every)
    by_hand = copy.deepcopy(subject.model)
    old, new = (direction(subject, word) for word in ("paris", "rome"))
    for neuron in every:
        rows = value_rows(subject.family, by_hand, neuron.layer)
        size, sign = rows[neuron.neuron].norm(), -1 if neuron in below else 1
        rows[neuron.neuron] += sign * (2.0 * size / new.norm() * new - 1.0 * size / old.norm() * old)
    edits = by_sign(subject, Edit(tuple(every), "paris", "rome", remove=1, add=2), PROMPTS)
    for prompt, got in zip(PROMPTS, predicted(subject, list(edits)), strict=True):
        assert got == pytest.approx(plain_probability(subject, prompt, model=by_hand), rel=1e-3)
    assert by_sign(subject, Edit((), "paris", "rome"), PROMPTS) == ()


def test_by_sign_needs_prompts_and_existing_neurons(bert):
    with pytest.raises(PromptError, match="no prompts to measure activations on"):
        by_sign(bert, Edit(NEURONS, "paris", "rome"), [])
    with pytest.raises(AtlasError, match=r"has no neuron L9\.N1"):
        by_sign(bert, Edit((Neuron(9, 1),), "paris", "rome"), PROMPTS)


@pytest.mark.parametrize(
    "nothing", [Amplify(NEURONS, 1.0), Edit(NEURONS, "paris", "rome", remove=0, add=0), Suppress(()), []]
)
def test_an_empty_change_changes_nothing(subject, nothing):
    assert predicted(subject, nothing) == [each.probability for each in subject.predict(PROMPTS)]


def test_changes_of_one_value_vector_apply_in_the_order_of_the_list(subject):
    edit = Edit(NEURONS, old="paris", new="rome")
    erased_last = predicted(subject, [edit, Erase(NEURONS)])
    assert erased_last == predicted(subject, Erase(NEURONS))
    # An edit's step is as long as the value vector, so after zero there is nothing to move.
    assert predicted(subject, [Erase(NEURONS), edit]) == pytest.approx(erased_last, rel=1e-6)
    assert predicted(subject, [edit]) != pytest.approx(erased_last, rel=1e-3)


def test_factors_of_one_neuron_multiply(subject):
    twice = predicted(subject, [Amplify(NEURONS, 2.0), Amplify(NEURONS, 1.5)])
    assert twice == predicted(subject, Amplify(NEURONS, 3.0))
    assert predicted(subject, [Amplify(NEURONS, 5.0), Suppress(NEURONS)]) == predicted(
        subject, Suppress(NEURONS)
    )


def test_each_prompt_of_a_batch_can_have_its_own_change(subject):
    changes = [
        Suppress(NEURONS),
        None,
        Edit(NEURONS, "paris", "rome"),
        [Erase(NEURONS[:1])],
        Patch(NEURONS, OTHER_PROMPT),
    ]
    prompts = [PROMPTS[0]] * 5
    together = subject.predict(prompts, interventions=changes)
    for prompt, change, got in zip(prompts, changes, together, strict=True):
        alone = subject.predict([prompt], interventions=[change])[0]
        assert got.probability == pytest.approx(alone.probability, rel=1e-5)
        assert got.rank == alone.rank


def test_an_answer_of_several_tokens_is_changed_at_each_of_them(subject):
    prompt = PROMPTS[2]
    before = subject.predict([prompt])[0]
    after = subject.predict([prompt], interventions=[Suppress(NEURONS)])[0]
    assert len(subject.encode(prompt).targets) == 2
    for old, new in zip(before.token_probabilities, after.token_probabilities, strict=True):
        assert new != pytest.approx(old, rel=1e-4)


def test_the_number_of_interventions_must_match_the_prompts(bert):
    with pytest.raises(AtlasError, match="1 interventions for 3 prompts"):
        bert.predict(PROMPTS, interventions=[None])


# --- as values ---


def test_interventions_survive_json(bert):
    several = [
        Suppress(NEURONS),
        Amplify(NEURONS[:1], -1.5),
        SetTo(NEURONS, -0.25),
        Patch(NEURONS[1:], OTHER_PROMPT),
        Erase(NEURONS, "unk"),
        Edit(NEURONS, old="São Paulo", new="rome", remove=0.5, add=3),
    ]
    assert interventions_from_json(interventions_to_json(several)) == several
    assert interventions_from_json(interventions_to_json(several[0])) == several[:1]
    assert json.loads(interventions_to_json(several))[0] == {
        "kind": "suppress",
        "neurons": [str(n) for n in sorted(NEURONS)],
    }


def test_the_same_neurons_in_another_order_are_the_same_value():
    assert Suppress((Neuron(1, 2), Neuron(0, 9), Neuron(1, 2))) == Suppress((Neuron(0, 9), Neuron(1, 2)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "17",
        "[" * 100_000,
        "null",
        '{"kind": "suppress"}',
        '["suppress"]',
        '[{"kind": "destroy", "neurons": []}]',
        '[{"kind": "suppress"}]',
        '[{"kind": "suppress", "neurons": ["L1"]}]',
        '[{"kind": "suppress", "neurons": [7]}]',
        '[{"kind": "suppress", "neurons": ["L1.N1"], "factor": 3}]',
        '[{"kind": "amplify", "neurons": ["L1.N1"], "factor": "many"}]',
        '[{"kind": "amplify", "neurons": ["L1.N1"], "factor": NaN}]',
        '[{"kind": "erase", "neurons": ["L1.N1"], "value": "gone"}]',
        '[{"kind": "erase", "neurons": ["L1.N1"], "value": 3}]',
        '[{"kind": "set", "neurons": ["L1.N1"]}]',
        '[{"kind": "set", "neurons": ["L1.N1"], "value": "zero"}]',
        '[{"kind": "set", "neurons": ["L1.N1"], "value": true}]',
        '[{"kind": "set", "neurons": ["L1.N1"], "value": 1e999}]',
        '[{"kind": "set", "neurons": ["L1.N1"], "value": NaN}]',
        '[{"kind": "set", "neurons": ["L1.N1"], "value": [1]}]',
        '[{"kind": "patch", "neurons": ["L1.N1"]}]',
        '[{"kind": "patch", "neurons": ["L1.N1"], "from_prompt": "no gap"}]',
        '[{"kind": "patch", "neurons": ["L1.N1"], "from_prompt": 7}]',
        '[{"kind": "edit", "neurons": ["L1.N1"], "old": "a", "new": "b", "add": -1}]',
        '[{"kind": "edit", "neurons": ["L1.N1"], "old": "a"}]',
        '[{"kind": "edit", "neurons": ["L1.N1"], "old": 1, "new": 2}]',
    ],
)
def test_json_that_is_not_an_intervention_is_refused(text):
    with pytest.raises(DocumentError) as caught:
        interventions_from_json(text)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1e9, -101, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_refused(factor):
    with pytest.raises(AtlasError, match="factor must be between -100 and 100, got"):
        Amplify(NEURONS, factor)


@pytest.mark.parametrize("value", [1e9, -10_001, float("nan"), float("inf"), "zero"])
def test_an_activation_out_of_range_is_refused(value):
    with pytest.raises(AtlasError, match="value must be a number between -10000 and 10000, got"):
        SetTo(NEURONS, value)


@pytest.mark.parametrize("strength", [-0.1, 1e6, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(AtlasError, match="add must be between 0 and 1000, got"):
        Edit(NEURONS, "paris", "rome", add=strength)


@pytest.mark.parametrize("neuron", [Neuron(3, 0), Neuron(0, 72), Neuron(-1, 0), Neuron(0, -1)])
def test_a_neuron_the_model_does_not_have_is_refused(subject, neuron):
    with pytest.raises(AtlasError, match=r"has no neuron L-?\d+\.N-?\d+"):
        predicted(subject, Suppress((neuron,)))
    with pytest.raises(AtlasError, match="has no neuron"):
        subject.predict(PROMPTS[:1], interventions=[Erase((neuron,))])


def test_an_edit_to_a_word_outside_the_vocabulary_is_refused(bert):
    with pytest.raises(AtlasError, match="outside the vocabulary"):
        predicted(bert, Edit(NEURONS, old="paris", new="☃"))


# --- the model is left as it was ---


@pytest.mark.parametrize("change", EVERY_KIND, ids=IDS)
def test_undo_is_exact(subject, change):
    before = every_logit(subject)
    assert predicted(subject, change) != [each.probability for each in subject.predict(PROMPTS)]
    assert torch.equal(every_logit(subject), before)
    assert hooks_left(subject) == 0


class Stopped(BaseException):
    """The exception of a stopped script; it is not an `Exception`."""


@pytest.mark.parametrize("error", [RuntimeError, Stopped, KeyboardInterrupt])
@pytest.mark.parametrize("change", EVERY_KIND, ids=IDS)
def test_undo_is_exact_when_the_forward_pass_is_interrupted(subject, change, error):
    before = every_logit(subject)

    def stop(module, args):
        raise error("in the middle of a forward pass")

    last = subject.family.down(subject.model, subject.n_layers - 1)
    handle = last.register_forward_pre_hook(stop)
    try:
        with pytest.raises(error), subject.applied(change) as changed:
            changed.predict(PROMPTS)
    finally:
        handle.remove()
    assert hooks_left(subject) == 0
    assert torch.equal(every_logit(subject), before)
    assert subject.lock.acquire(blocking=False)
    subject.lock.release()


def test_undo_is_exact_when_the_block_is_left_by_an_exception(subject):
    before = every_logit(subject)

    def work():
        with subject.applied(Suppress(NEURONS)) as changed:
            changed.predict(PROMPTS)
            raise Stopped

    with pytest.raises(Stopped):
        work()
    assert hooks_left(subject) == 0
    assert torch.equal(every_logit(subject), before)


def test_the_subject_itself_is_unchanged_inside_the_block(subject):
    before = subject.predict(PROMPTS)
    with subject.applied(Suppress(NEURONS)) as changed:
        assert changed.predict(PROMPTS) != before
        assert subject.predict(PROMPTS) == before


def test_two_threads_with_different_changes_get_what_each_gets_alone(subject):
    changes = [Suppress(NEURONS), Edit(NEURONS, "paris", "rome"), None, Amplify(NEURONS, 4.0)]
    alone = [subject.predict(PROMPTS, interventions=[change] * 3) for change in changes]
    start = threading.Barrier(len(changes))
    results: list[list] = [[] for _ in changes]

    def work(place: int) -> None:
        start.wait()
        for _ in range(10):
            results[place].append(subject.predict(PROMPTS, interventions=[changes[place]] * 3))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(changes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for wanted, got in zip(alone, results, strict=True):
        assert got == [wanted] * 10


# --- baking ---


@pytest.mark.parametrize(
    "change",
    [Erase(NEURONS), Edit(NEURONS, "paris", "rome"), [Edit(NEURONS, "paris", "rome"), Erase(NEURONS[:1])]],
    ids=["erase", "edit", "list"],
)
def test_a_baked_model_predicts_as_the_applied_one(subject, change, tmp_path):
    before = every_logit(subject)
    folder = subject.bake(change, tmp_path / "baked")
    baked = load_subject(str(folder), device="cpu")
    for wanted, got in zip(predicted(subject, change), baked.predict(PROMPTS), strict=True):
        assert got.probability == pytest.approx(wanted, rel=1e-3)
    assert torch.equal(every_logit(subject), before)
    assert baked.weights_sha256 != subject.weights_sha256
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]


@pytest.mark.parametrize(
    "change",
    [
        Suppress(NEURONS),
        [Erase(NEURONS), Amplify(NEURONS)],
        SetTo(NEURONS, 1),
        [Erase(NEURONS), Patch(NEURONS, OTHER_PROMPT)],
    ],
)
def test_a_change_of_activations_cannot_be_baked(bert, change, tmp_path):
    with pytest.raises(AtlasError, match="cannot be baked"):
        bert.bake(change, tmp_path / "baked")
    assert not any(tmp_path.iterdir())


def test_baking_refuses_a_folder_that_is_not_empty(bert, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        bert.bake(Erase(NEURONS), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ModelError, match="not empty"):
        bert.bake(Erase(NEURONS), tmp_path / "mine.txt")


def test_baking_refuses_a_neuron_the_model_does_not_have(bert, tmp_path):
    with pytest.raises(AtlasError, match="has no neuron"):
        bert.bake(Erase((Neuron(9, 9),)), tmp_path / "baked")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama", "tiny_qwen3"])
def test_many_changes_behind_one_prefix_equal_whole_passes_one_by_one(tiny, name):
    subject = load_subject(str(tiny(name)), device="cpu")
    changes = [
        Suppress(NEURONS),
        Amplify(NEURONS[:2], 3.0),
        None,
        [Suppress(NEURONS[2:]), Amplify(NEURONS[:1])],
        [SetTo(NEURONS[2:], 2.0), Patch(NEURONS[:1], OTHER_PROMPT)],
    ]
    asked = [(prompt, change) for prompt in PROMPTS for change in changes]
    together = subject.predict(
        [p for p, _ in asked], interventions=[c for _, c in asked], share_prefixes=True
    )
    for (prompt, change), prediction in zip(asked, together, strict=True):
        alone = subject.predict([prompt], interventions=[change])[0]
        assert prediction.token_probabilities == pytest.approx(alone.token_probabilities, rel=1e-4)
        assert prediction.rank == alone.rank


def test_changes_of_value_vectors_share_no_prefix(tiny_gpt2):
    subject = load_subject(str(tiny_gpt2), device="cpu")
    changes = [Erase(NEURONS), Suppress(NEURONS), None]
    shared = subject.predict(list(PROMPTS), interventions=changes, share_prefixes=True)
    assert shared == subject.predict(list(PROMPTS), interventions=changes)


def test_prompts_with_equal_inputs_share_one_pass(subject):
    prompt = PROMPTS[0]
    answers = ["paris", "rome", "new york", "paris"]
    change = Edit(NEURONS, old="paris", new="rome")
    asked = [Prompt("f", "t", prompt.text, answer) for answer in answers for _ in range(2)]
    changes = [change, None] * len(answers)
    rows = []
    forward = subject.model.base_model.register_forward_pre_hook(
        lambda module, args: rows.append(args[0].shape[0])
    )
    together = subject.predict(asked, interventions=changes)
    forward.remove()
    # Two answers of one token make one sentence; "new york" makes another; each with and without the edit.
    assert sum(rows) == 4
    for one, item, prediction in zip(asked, changes, together, strict=True):
        alone = subject.predict([one], interventions=[item])[0]
        assert prediction.token_probabilities == pytest.approx(alone.token_probabilities, rel=1e-4)
        assert prediction.rank == alone.rank
