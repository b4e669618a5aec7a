"""Every supported architecture passes the same identities, from tiny configs and real classes.

Expected values come from transformers and `build.bench.plain_loop`, which share no code with `atlas`.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from atlas.errors import ModelError
from atlas.models.families import FAMILIES, VARIANTS, family_of
from atlas.neuron import Neuron, Prompt
from atlas.surgery import Amplify, Edit, Erase, Subject, Suppress, attribute, load_subject, readout
from atlas.surgery.hooks import recording
from build.bench.plain_loop import down_projections, endpoints, plain_scores
from build.plan import model_shape
from tests import ROOT
from tests.plain_paths import plain_path
from tests.tiny_models import BUILDERS, N_LAYERS, WINDOW, save_tiny

EXACT = 1e-5
SHARED_LAYERS = ("tiny_albert",)
SLIDING = (
    "tiny_mistral",
    "tiny_starcoder2",
    "tiny_modernbert",
    "tiny_gpt_neo",
    "tiny_gemma2",
    "tiny_gemma3_text",
    "tiny_gemma3",
)
ONE_TOKEN = Prompt("f1", "t1", "the capital of france is [Y] .", "paris")
SEVERAL_TOKENS = Prompt("f2", "t2", "the largest city of america is [Y] .", "new york")
BEYOND_WINDOWS = Prompt(
    "f3", "t3", "people in tokyo speak japanese , people in paris speak french , the city is [Y] .", "rome"
)
PROMPTS = (ONE_TOKEN, SEVERAL_TOKENS, BEYOND_WINDOWS)


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tiny) -> Path:
    return tiny(request.param)


@pytest.fixture(scope="module")
def subject(folder) -> Subject:
    return load_subject(str(folder), device="cpu")


@pytest.fixture(scope="module")
def plain(folder):
    """The same model, read by transformers alone."""
    auto = AutoModelForMaskedLM if BUILDERS[folder.name].masked else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def tasks(subject: Subject, prompt: Prompt) -> list[tuple[torch.Tensor, int, int]]:
    """(input_ids, position, target) of each token of the answer."""
    encoded = subject.encode(prompt)
    return [
        (
            torch.tensor(
                encoded.input_ids[: position + 1] if subject.family.kind == "causal" else encoded.input_ids
            ),
            position,
            target,
        )
        for position, target in zip(encoded.positions, encoded.targets, strict=True)
    ]


def difference(scores: np.ndarray, reference: np.ndarray) -> float:
    assert scores.shape == reference.shape
    return float(np.abs(scores - reference).max() / np.abs(reference).max())


def probability(model, subject: Subject, prompt: Prompt) -> float:
    """The whole answer's probability by plain calls of the model."""
    product = 1.0
    for input_ids, position, target in tasks(subject, prompt):
        with torch.no_grad():
            product *= model(input_ids=input_ids[None]).logits[0, position].softmax(-1)[target].item()
    return product


def weights(model) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


# --- the table ---


def test_the_tests_cover_exactly_the_types_of_the_table():
    assert {tiny.model_type for tiny in BUILDERS.values()} == set(FAMILIES)


def test_the_page_on_models_has_every_type_in_its_table():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.partition("| types | neurons are the inputs of |")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    types = {name for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    assert types == set(FAMILIES)


def test_every_variant_is_tested(tiny):
    for model_type, (switch, _, value, family) in VARIANTS.items():
        names = [name for name, each in BUILDERS.items() if each.model_type == model_type]
        configs = [json.loads((tiny(name) / "config.json").read_text(encoding="utf-8")) for name in names]
        assert {config.get(switch) == value for config in configs} == {True, False}
        assert [family_of(config) is family for config in configs] == [
            c.get(switch) == value for c in configs
        ]


def test_an_unknown_type_is_refused_with_the_known_ones():
    with pytest.raises(ModelError) as caught:
        family_of({"model_type": "t5"})
    sentence = str(caught.value)
    assert sentence.startswith("Models of type 't5' are not supported.")
    assert all(model_type in sentence for model_type in FAMILIES)


def test_a_plan_reads_kind_and_sizes_off_the_config(subject, folder):
    shape = model_shape(str(folder))
    assert (shape.kind, shape.n_layers, shape.n_neurons) == (
        subject.family.kind,
        subject.n_layers,
        subject.n_neurons,
    )


# --- where the parts are ---


def test_activations_times_value_vectors_equal_the_layers_write(subject, plain):
    (input_ids, position, _), *_ = tasks(subject, ONE_TOKEN)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module, args, output):
        read, wrote = (each.reshape(-1, each.shape[-1])[position] for each in (args[0], output))
        seen.append((read, wrote if module.bias is None else wrote - module.bias))

    handles = [module.register_forward_hook(keep) for module in dict.fromkeys(down_projections(plain))]
    with torch.no_grad():
        plain(input_ids=input_ids[None])
    for handle in handles:
        handle.remove()
    activations = subject.activations([ONE_TOKEN])[0]  # (n_layers, n_neurons)
    assert len(seen) == len(activations) == N_LAYERS
    for layer, (read, wrote) in enumerate(seen):
        assert torch.allclose(activations[layer], read, atol=1e-5)
        written = activations[layer] @ subject.family.value_vectors(subject.model, layer)
        assert torch.allclose(written, wrote, atol=1e-5)


def test_a_layers_output_is_the_tail_of_its_residual_and_write(subject):
    (input_ids, position, _), *_ = tasks(subject, ONE_TOKEN)
    family, model = subject.family, subject.model
    with torch.no_grad(), recording(model, family, torch.tensor([[position]]), outputs=True) as trace:
        model.base_model(input_ids[None])
    for layer in range(N_LAYERS):
        bias = family.down(model, layer).bias
        write = trace.activations[layer][:, 0] @ family.value_vectors(model, layer)
        write = write if bias is None else write + bias
        with torch.no_grad():
            handed_on = family.tail(model, layer, trace.residuals[layer][:, 0], write)
        assert torch.allclose(handed_on, trace.outputs[layer][:, position], atol=1e-4)


def test_predictions_equal_those_of_transformers(subject, plain):
    for prompt, prediction in zip(PROMPTS, subject.predict(PROMPTS), strict=True):
        assert prediction.probability == pytest.approx(probability(plain, subject, prompt), rel=1e-4)


@pytest.mark.parametrize("name", SLIDING)
def test_a_window_of_attention_shows_in_the_longest_prompt(name, tiny, tmp_path):
    """Otherwise the exactness tests could miss a forgotten window."""
    wide = shutil.copytree(tiny(name), tmp_path / name)
    config = json.loads((wide / "config.json").read_text(encoding="utf-8"))
    inner = config.get("text_config", config)
    windows = [key for key in ("sliding_window", "local_attention", "window_size") if inner.get(key)]
    assert {inner[key] for key in windows} <= {WINDOW, WINDOW // 2}
    inner.update(dict.fromkeys(windows, 64))
    (wide / "config.json").write_text(json.dumps(config), encoding="utf-8")
    narrow_says, wide_says = (
        load_subject(str(folder), device="cpu").predict([BEYOND_WINDOWS])[0].probability
        for folder in (tiny(name), wide)
    )
    assert narrow_says != pytest.approx(wide_says, rel=1e-3)


# --- attribution ---


def test_scores_equal_the_plain_loop_for_prompts_of_different_lengths_in_one_batch(subject, plain):
    for prompt, result in zip(PROMPTS, attribute(subject, PROMPTS, rule="endpoints"), strict=True):
        each = [plain_scores(plain, *task, rule=endpoints(20)) for task in tasks(subject, prompt)]
        assert difference(result.scores, torch.stack(each).mean(0).numpy()) < EXACT


def test_certified_scores_sum_to_the_probability_change(subject, plain):
    for prompt, result in zip(PROMPTS, attribute(subject, PROMPTS), strict=True):
        assert result.converged.all()
        for token, task in enumerate(tasks(subject, prompt)):
            for layer in range(N_LAYERS):
                zero, one = plain_path(plain, *task, layer=layer, alphas=[0.0, 1.0]).tolist()
                assert result.p_zero[token, layer] == pytest.approx(zero, rel=1e-4)
                assert result.p_one[token, layer] == pytest.approx(one, rel=1e-4)
        change = (result.p_one - result.p_zero).mean(0)
        allowed = 0.01 * result.token_max.mean() + 1e-7
        assert (np.abs(result.scores.sum(1) - change) <= allowed).all()


# --- interventions ---


def test_suppressing_equals_zeroing_by_hand_and_leaves_no_trace(subject, plain):
    """By hand: in the raw model, at the layer's own call, at every answer position."""
    neurons = (Neuron(0, 3), Neuron(1, 70), Neuron(1, 5), Neuron(2, 41))
    before = weights(subject.model)
    plainly = [prediction.probability for prediction in subject.predict(PROMPTS)]
    with subject.applied(Suppress(neurons)) as changed:
        suppressed = [prediction.probability for prediction in changed.predict(PROMPTS)]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())
    assert [prediction.probability for prediction in subject.predict(PROMPTS)] == plainly
    assert weights(subject.model) == before

    modules = down_projections(plain)
    for prompt, expected in zip(PROMPTS, suppressed, strict=True):
        encoded = subject.encode(prompt)
        calls: list[int] = []

        def zero(module, args, positions=encoded.positions, calls=calls):
            layer = len(calls)  # layers are called in their order
            calls.append(layer)
            read = args[0].clone()
            for neuron in neurons:
                if neuron.layer == layer:
                    read.view(-1, read.shape[-1])[list(positions), neuron.neuron] = 0
            return (read,)

        handles = [module.register_forward_pre_hook(zero) for module in dict.fromkeys(modules)]
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([encoded.input_ids])).logits[0]
        for handle in handles:
            handle.remove()
        assert calls == list(range(N_LAYERS))
        product = 1.0
        for position, target in zip(encoded.positions, encoded.targets, strict=True):
            product *= logits[position].softmax(-1)[target].item()
        assert expected == pytest.approx(product, rel=1e-4)


def test_many_changes_of_a_prompt_share_its_prefix(subject):
    changes = [None, Suppress((Neuron(1, 5),)), Amplify((Neuron(2, 7), Neuron(0, 1)), 3.0)]
    prompts = [BEYOND_WINDOWS] * len(changes)
    alone, shared = (
        subject.predict(prompts, interventions=changes, share_prefixes=sharing) for sharing in (False, True)
    )
    for one, other in zip(alone, shared, strict=True):
        assert other.probability == pytest.approx(one.probability, rel=1e-4)


def test_a_baked_change_equals_the_applied_one(subject, folder, tmp_path):
    change = [Erase((Neuron(0, 3), Neuron(2, 5))), Edit((Neuron(1, 9),), old="paris", new="rome")]
    if folder.name in SHARED_LAYERS:
        with pytest.raises(ModelError, match=r"shares the weights of L0\.N3 between layers"):
            subject.bake(change, tmp_path / "baked")
        assert not (tmp_path / "baked").exists()
        return
    baked = load_subject(str(subject.bake(change, tmp_path / "baked")), device="cpu")
    with subject.applied(change) as changed:
        expected = [prediction.probability for prediction in changed.predict(PROMPTS)]
    found = [prediction.probability for prediction in baked.predict(PROMPTS)]
    assert found == pytest.approx(expected, rel=1e-3)
    before = [prediction.probability for prediction in subject.predict(PROMPTS)]
    assert found != pytest.approx(before, rel=1e-2)


def test_layers_that_share_their_weights_are_changed_at_one_depth_only(tiny):
    subject = load_subject(str(tiny("tiny_albert")), device="cpu")
    assert len({id(layer) for layer in subject.family.layer_modules(subject.model)}) == 1
    after = []
    for layer in range(N_LAYERS):
        with subject.applied(Erase((Neuron(layer, 3), Neuron(layer, 5)))) as changed:
            after.append(changed.predict([ONE_TOKEN])[0].probability)
    assert len(set(after)) == N_LAYERS


# --- readout ---


def test_a_value_vector_reads_as_the_tokens_it_points_to(subject):
    (found,) = readout(subject, [Neuron(1, 4)], k=3)
    vectors = subject.family.token_embeddings(subject.model)
    assert vectors.shape == (subject.n_tokens, subject.d_model)
    assert len(found.promoted) == len(found.suppressed) == 3
    assert found.promoted[0][1] >= found.promoted[2][1] > found.suppressed[2][1] >= found.suppressed[0][1]


@pytest.mark.parametrize("name", [name for name, tiny in BUILDERS.items() if not tiny.masked])
def test_a_causal_models_readout_orders_tokens_as_its_head_does(name, tiny):
    """The head is linear but for its norm, a gain and a scale, and Gemma's bound, which keeps the order."""
    subject = load_subject(str(tiny(name)), device="cpu")
    family, model = subject.family, subject.model
    value = family.value_vectors(model, 1)[4]
    norm = family.final_modules(model)[0]
    with torch.no_grad():
        by_head = (
            family.logits(model, 50 * value[None])[0] - family.logits(model, torch.zeros_like(value)[None])[0]
        )
    if family.norm_after is None:  # opt-350m has no final norm
        weight = getattr(norm, "weight", None)  # nor have OLMo's norms a gain
        centred = value if "RMS" in type(norm).__name__ else value - value.mean()
        value = centred if weight is None else centred * (weight + family.gain_offset)
    direct = family.token_embeddings(model) @ value
    assert torch.corrcoef(torch.stack([by_head, direct]))[0, 1] > 0.99


# --- checkpoints ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt_neox", "tiny_llama", "tiny_gemma3_text"])
def test_a_half_precision_checkpoint_is_computed_in_float32(name, dtype, tmp_path):
    folder = save_tiny(name, tmp_path)
    masked = BUILDERS[name].masked
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    subject = load_subject(str(folder), device="cpu")
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.float32}
    plain = auto.from_pretrained(folder, dtype=torch.float32).eval()
    (result,) = attribute(subject, [ONE_TOKEN], rule="endpoints")
    (task,) = tasks(subject, ONE_TOKEN)
    assert difference(result.scores, plain_scores(plain, *task, rule=endpoints(20)).numpy()) < EXACT


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen3"])
def test_tied_and_untied_embeddings_are_read_as_they_are(name, tied, tmp_path):
    tiny = replace(BUILDERS[name], options={**BUILDERS[name].options, "tie_word_embeddings": tied})
    model, tokenizer = tiny.make()
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    subject = load_subject(str(tmp_path), device="cpu")
    vectors = subject.family.token_embeddings(subject.model)
    assert torch.equal(vectors, model.get_output_embeddings().weight)
    assert torch.equal(vectors, subject.model.get_input_embeddings().weight) == tied
