"""Encoding and predictions equal plain model calls; bad input is refused."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.errors import AtlasError, ModelError, PromptError
from atlas.interventions import Amplify, Edit, Erase, Suppress
from atlas.models.device import device_of
from atlas.neuron import Neuron, Prompt

torch = pytest.importorskip("torch")

from atlas.surgery import load_subject  # noqa: E402

TEXTS = {
    "paris": "the capital of france is [Y]",
    "german": "the official language of austria is [Y]",
    "new york": "in america , the largest city of america is [Y]",
    "sao paulo": "the largest city of brazil is [Y]",
    "apple": "the iphone is made by [Y]",
    "rome": "the old town is [Y]",
}
PROMPTS = [Prompt("f", answer, text, answer) for answer, text in TEXTS.items()]


@pytest.fixture(scope="module")
def subject(tiny_folder: Path):
    return load_subject(str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def bert(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2: Path):
    return load_subject(str(tiny_gpt2), device="cpu")


def is_one_message(error: Exception) -> bool:
    return "\n" not in str(error) and str(error).endswith(".")


# --- encoding ---


def test_a_masked_model_gets_one_mask_an_answer_token(bert):
    for answer, n_tokens in {"paris": 1, "new york": 2, "azerbaijan": 10}.items():
        encoded = bert.encode(Prompt("f", "t", "the capital of [Y] is baku .", answer))
        assert len(encoded.targets) == len(encoded.positions) == n_tokens
        assert [encoded.input_ids[p] for p in encoded.positions] == [bert.tokenizer.mask_token_id] * n_tokens
        assert bert.tokenizer.decode(encoded.targets).replace(" ", "") == answer.replace(" ", "")
        assert encoded.input_ids.count(bert.tokenizer.mask_token_id) == n_tokens


def test_a_causal_model_reads_the_answers_tokens_but_the_last(gpt2):
    encoded = gpt2.encode(PROMPTS[2])
    stem = tuple(gpt2.tokenizer.encode(PROMPTS[2].stem))
    assert encoded.targets == tuple(gpt2.tokenizer.encode(" new york"))
    assert encoded.input_ids == stem + encoded.targets[:-1]
    assert encoded.positions == tuple(range(len(stem) - 1, len(stem) - 1 + len(encoded.targets)))


def test_a_full_stop_after_the_answer_is_not_read_by_a_causal_model(gpt2):
    with_stop = dataclasses.replace(PROMPTS[0], text=PROMPTS[0].text + ".")
    assert gpt2.encode(with_stop).input_ids == gpt2.encode(PROMPTS[0]).input_ids


def test_the_answers_place_can_be_written_in_several_ways(bert, gpt2):
    wanted = bert.encode(Prompt("", "", "the capital of france is [Y] .", "paris")).input_ids
    for mark in ("[Y]", "[MASK]", "<mask>"):
        assert bert.encode(bert.prompt(f"the capital of france is {mark} .", "paris")).input_ids == wanted
    bare = gpt2.encode(gpt2.prompt("the capital of france is", "paris"))
    assert bare.input_ids == gpt2.encode(PROMPTS[0]).input_ids


# --- predicting ---


def test_probability_and_rank_are_those_of_a_plain_model_call(subject):
    for prompt, prediction in zip(PROMPTS, subject.predict(PROMPTS), strict=True):
        encoded = subject.encode(prompt)
        with torch.no_grad():
            logits = subject.model(torch.tensor([encoded.input_ids])).logits[0].float()
        expected, worst = 1.0, 0
        for position, target in zip(encoded.positions, encoded.targets, strict=True):
            expected *= float(logits[position].softmax(-1)[target])
            order = logits[position].argsort(descending=True).tolist()
            worst = max(worst, order.index(target) + 1)
        assert prediction.probability == pytest.approx(expected, rel=1e-5)
        assert prediction.rank == worst
        best = logits[encoded.positions[0]].softmax(-1)
        assert prediction.top_probability == pytest.approx(float(best.max()), rel=1e-5)
        assert prediction.top_token == subject.token_text(int(best.argmax()))


def test_the_likeliest_tokens_come_in_order_as_many_as_asked(subject):
    prediction = subject.predict(PROMPTS[:1], top_k=7)[0]
    probabilities = [probability for _, probability in prediction.top]
    assert len(probabilities) == 7
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(subject.predict(PROMPTS[:1], top_k=10**9)[0].top) == subject.n_tokens


def test_the_probability_of_an_answer_is_the_product_over_its_tokens(subject):
    prediction = subject.predict(PROMPTS)[2]
    assert len(prediction.token_probabilities) == 2
    first, second = prediction.token_probabilities
    assert prediction.probability == first * second


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
def test_a_batch_of_different_lengths_equals_single_prompts(subject, batch_tokens):
    together = subject.predict(PROMPTS, batch_tokens=batch_tokens)
    for prompt, got in zip(PROMPTS, together, strict=True):
        alone = subject.predict([prompt])[0]
        assert got.probability == pytest.approx(alone.probability, rel=1e-5)
        assert got.rank == alone.rank
        assert [token for token, _ in got.top] == [token for token, _ in alone.top]


def test_activations_times_the_down_projection_is_what_the_layer_writes(subject):
    prompt = PROMPTS[0]
    position = subject.encode(prompt).positions[0]
    written = {}

    def keep(layer):
        def hook(module, args, output):
            written[layer] = output[0, position]

        return hook

    downs = [subject.family.down(subject.model, layer) for layer in range(subject.n_layers)]
    handles = [down.register_forward_hook(keep(layer)) for layer, down in enumerate(downs)]
    try:
        activations = subject.activations([prompt])
    finally:
        for handle in handles:
            handle.remove()
    assert activations.shape == (1, subject.n_layers, subject.n_neurons)
    for layer, down in enumerate(downs):
        value = activations[0, layer] @ subject.family.value_vectors(subject.model, layer)
        if down.bias is not None:
            value = value + down.bias
        torch.testing.assert_close(value, written[layer], rtol=1e-4, atol=1e-5)


def test_no_prompts_give_no_predictions(subject):
    assert subject.predict([]) == []
    assert subject.activations([]).shape == (0, subject.n_layers, subject.n_neurons)


# --- identity ---


def test_a_subject_knows_its_sizes_and_its_weights(subject, tiny_folder):
    assert (subject.n_layers, subject.n_neurons, subject.d_model) == (3, 72, 32)
    assert subject.n_tokens == subject.model.get_output_embeddings().weight.shape[0]
    assert len(subject.weights_sha256) == 64
    assert subject.name == str(tiny_folder)
    assert not subject.model.training
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())


def test_loading_prints_nothing(tiny_bert):
    code = f"from atlas.surgery import load_subject; load_subject({str(tiny_bert)!r}, device='cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == ""
    assert done.stderr == ""


# --- bad prompts ---


@pytest.mark.parametrize("text", ["the capital of france is paris .", "[Y] is [Y] .", "[MASK] or [Y] ."])
def test_a_prompt_without_one_place_for_its_answer_is_refused(bert, text):
    with pytest.raises(PromptError, match="exactly one") as caught:
        bert.encode(bert.prompt(text, "paris"))
    assert is_one_message(caught.value)


def test_a_subject_name_that_holds_a_mask_is_refused(bert):
    with pytest.raises(PromptError, match="has 2 masks"):
        bert.encode(Prompt("f", "t", "the capital of [MASK] is [Y] .", "paris"))


def test_an_answer_outside_the_vocabulary_is_refused(bert):
    with pytest.raises(PromptError, match="outside the vocabulary") as caught:
        bert.encode(Prompt("f", "t", "the capital of france is [Y] .", "☃"))
    assert is_one_message(caught.value)


def test_an_empty_answer_is_refused(bert):
    with pytest.raises(PromptError, match="empty answer"):
        bert.prompt("the capital of france is [MASK] .", "  ")


def test_an_overlong_answer_is_refused(subject):
    with pytest.raises(PromptError, match="at most 16"):
        subject.answer_tokens(" ".join(["paris"] * 30))


def test_a_prompt_longer_than_the_model_reads_is_refused(subject):
    prompt = Prompt("f", "t", "the capital of france " * 40 + "is [Y]", "paris")
    with pytest.raises(PromptError, match="reads at most 64") as caught:
        subject.predict([prompt])
    assert is_one_message(caught.value)


def test_a_causal_prompt_that_goes_on_after_its_answer_is_refused(gpt2):
    with pytest.raises(PromptError, match="continues after the answer"):
        gpt2.encode(Prompt("f", "t", "paris , [Y] , is the capital of france", "paris"))


def test_a_causal_prompt_with_no_words_is_refused(gpt2):
    with pytest.raises(PromptError, match="no words before the answer"):
        gpt2.encode(Prompt("f", "t", "[Y]", "paris"))


# --- bad models ---


def test_an_unknown_model_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="pocket-bert") as caught:
        load_subject("no/such/model at all")
    assert is_one_message(caught.value)


def test_an_unsupported_family_is_refused(tmp_path, tiny_bert):
    folder = shutil.copytree(tiny_bert, tmp_path / "odd")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "t5"'))
    with pytest.raises(ModelError, match="'t5' are not supported") as caught:
        load_subject(str(folder))
    assert is_one_message(caught.value)


def test_pickled_weights_are_refused(tmp_path, tiny_bert):
    folder = shutil.copytree(tiny_bert, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        load_subject(str(folder))


def test_truncated_weights_are_refused(tmp_path, tiny_bert):
    folder = shutil.copytree(tiny_bert, tmp_path / "short")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_subject(str(folder))
    assert is_one_message(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path, tiny_bert):
    folder = shutil.copytree(tiny_bert, tmp_path / "foreign")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 72', '"intermediate_size": 80'))
    with pytest.raises(ModelError, match="describes other shapes") as caught:
        load_subject(str(folder))
    assert is_one_message(caught.value)


def test_weights_that_lack_a_layer_are_refused(tmp_path, tiny_bert):
    folder = shutil.copytree(tiny_bert, tmp_path / "lacking")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(ModelError):
        load_subject(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        (),
        Suppress((Neuron(0, 1),)),
        Amplify((Neuron(1, 0),), factor=2),
        Erase((Neuron(1, 1),)),
        Edit((Neuron(1, 0),), old="paris", new="rome"),
    ],
    ids=lambda change: type(change).__name__,
)
def test_a_nan_in_the_weights_is_refused_also_under_a_change(tmp_path, change):
    from tests.tiny_models import save_broken_bert

    subject = load_subject(str(save_broken_bert(tmp_path)), device="cpu")
    prompt = Prompt("f", "t", "the capital of france is [Y] .", "paris")
    with subject.applied(change) as changed, pytest.raises(ModelError, match="NaN"):
        changed.predict([prompt])


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "xpu", "meta", "cuda:x", "cuda:-1", "mps:1", "\n"])
def test_a_device_that_does_not_exist_is_refused(tiny_bert, device):
    with pytest.raises(ModelError, match="There is no device"):
        load_subject(str(tiny_bert), device=device)


@pytest.mark.parametrize("device", [None, "auto", "cpu"])
def test_no_device_and_auto_are_whatever_the_machine_has(tiny_bert, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert load_subject(str(tiny_bert), device=device).device == torch.device("cpu")


def test_auto_takes_a_cuda_device_before_apples_gpu_and_that_before_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of(None) == device_of("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda")


def test_a_sweeps_rows_are_sent_to_every_kind_of_device():
    from atlas.attribution.staircase import _sent

    assert _sent(torch.ones(2), torch.device("meta")).device.type == "meta"


def test_a_missing_apple_gpu_and_a_cuda_number_beyond_the_last_are_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"There is no Apple GPU \(mps\)"):
        device_of("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1").index == 1
    with pytest.raises(ModelError, match="There is no cuda:2: CUDA has 2 devices"):
        device_of("cuda:2")


def test_a_missing_cuda_device_is_refused(tiny_bert, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="There is no CUDA device"):
        load_subject(str(tiny_bert), device="cuda")


@pytest.mark.parametrize("dtype", ["float16", "int8", ""])
def test_a_precision_that_does_not_exist_is_refused(tiny_bert, dtype):
    with pytest.raises(ModelError, match="dtype must be one of"):
        load_subject(str(tiny_bert), dtype=dtype)


def test_every_error_of_this_module_is_an_atlas_error():
    assert issubclass(PromptError, AtlasError)
    assert issubclass(ModelError, AtlasError)


def test_several_subjects_can_be_loaded_side_by_side(tiny: Callable[[str], Path]):
    one, two = (load_subject(str(tiny(name)), device="cpu") for name in ("tiny_bert", "tiny_gpt2"))
    assert one.family.kind == "masked"
    assert two.family.kind == "causal"
    assert one.lock is not two.lock
