"""A shape has the sizes and the distribution of the public model, and is the same each time."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from atlas.models.families import family_of
from build.bench import sides
from build.bench.models import named_subject, shape_config
from build.bench.prompts import bench_prompts

# What the models' publishers say of them: parameters, layers, width, neurons a layer, vocabulary.
PUBLISHED = {
    "bert-base": (109_514_298, 12, 768, 3072, 30_522),
    "bert-large": (335_174_458, 24, 1024, 4096, 30_522),
    "gpt2": (124_439_808, 12, 768, 3072, 50_257),
    "llama-1b": (1_235_814_400, 16, 2048, 8192, 128_256),
}


@pytest.mark.parametrize("shape", PUBLISHED)
def test_a_shape_has_the_published_sizes(shape: str):
    """Counted on the meta device, where weights take no memory."""
    config = shape_config(shape)
    family = family_of(config.to_dict())
    auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    n_neurons, width = family.value_vectors(model, 0).shape
    n_tokens = family.token_embeddings(model).shape[0]
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    n_layers = len(family.layer_modules(model))
    assert (n_parameters, n_layers, width, n_neurons, n_tokens) == PUBLISHED[shape]


def test_the_llama_shape_shares_keys_and_ties_its_embeddings():
    config = shape_config("llama-1b")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (32, 8, 64)
    assert config.tie_word_embeddings
    model = named_subject("llama-tiny").model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_quick_initialisation_has_the_usual_distribution():
    """The Llama shape writes its own random weights; transformers' have the same spread, and norms of one."""
    quick = named_subject("llama-tiny").model
    usual = AutoModelForCausalLM.from_config(shape_config("llama-tiny"))
    for (name, ours), (_, theirs) in zip(quick.named_parameters(), usual.named_parameters(), strict=True):
        assert ours.shape == theirs.shape
        if ours.ndim == 1:
            assert torch.equal(ours, theirs), name
        else:
            assert float(ours.std()) == pytest.approx(float(theirs.detach().std()), rel=0.2), name
            assert abs(float(ours.mean())) < 0.005, name


@pytest.mark.parametrize("shape", ["bert-tiny", "llama-tiny"])
def test_a_shape_is_the_same_each_time(shape: str):
    first, second = (named_subject(shape).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("shape", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_a_shape_can_have_other_layers(shape: str):
    subject = named_subject(shape, layers=5)
    [found] = sides.run_side(
        subject, bench_prompts(subject.family.kind, 1), "certified", steps=20, tolerance=0.01
    )
    assert found.scores.shape == (5, subject.n_neurons)
