"""Models of public sizes with random weights, so that nothing has to be downloaded, or loaded ones.

    subject = shape_subject("bert-base", device="cpu", dtype="float32")
    subject = subject_of(options)              # --shape or --model, on --device in --dtype, with --threads

BERT's and GPT-2's shapes are initialised by transformers; Llama's, whose billion parameters would take it
half a minute, by one pass of the same distribution.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from build.bench.prompts import SEED
from build.plan import DEFAULT_DTYPES

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from atlas.surgery.subject import Subject

# transformers' config, its options: the public models' sizes, and three for the tests.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "bert-large": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "gpt2": ("gpt2", {}),
    "llama-1b": (
        "llama",
        {"vocab_size": 128_256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "rms_norm_eps": 1e-5}
        | {"max_position_embeddings": 131_072, "tie_word_embeddings": True}
        | {"bos_token_id": 128_000, "eos_token_id": 128_001}
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ),
    "bert-tiny": (
        "bert",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 64},
    ),
    "gpt2-tiny": (
        "gpt2",
        {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama-tiny": (
        "llama",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": True},
    ),
}


def shape_config(shape: str, *, layers: int | None = None) -> PretrainedConfig:
    """transformers' config of that shape, with another number of layers if asked for."""
    from transformers import AutoConfig

    model_type, sizes = SHAPES[shape]
    config = AutoConfig.for_model(model_type, **sizes)
    if layers is not None:
        config.num_hidden_layers = layers  # GPT-2's config maps it to n_layer
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return config


def shape_subject(
    shape: str, *, device: str = "cpu", dtype: str = "float32", layers: int | None = None
) -> Subject:
    """A subject of that shape, with random weights and a tokenizer of whole words."""
    import torch

    from atlas.models.families import family_of
    from atlas.surgery.subject import Subject, device_of
    from build.bench.vocabulary import whole_words

    config = shape_config(shape, layers=layers)
    family = family_of(config.to_dict())
    target = device_of(device)
    dtype = dtype_of(dtype, target)
    torch.manual_seed(SEED)
    model = _random_model(config, family.kind).eval().requires_grad_(False)
    return Subject(
        name=f"{shape} shape, random weights",
        revision="",
        weights_sha256="",
        model=model.to(target),
        tokenizer=whole_words(family.kind, config.vocab_size),
        family=family,
        device=target,
        dtype=dtype,
    )


def _random_model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.initialization import no_init_weights

    auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    if config.model_type != "llama":
        return auto.from_config(config, dtype=torch.float32)
    with no_init_weights():
        model = auto.from_config(config, dtype=torch.float32)
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            # A Llama has matrices and the scales of its norms, and no biases.
            parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(0, config.initializer_range)
    return model


def dtype_of(dtype: str, device: torch.device) -> str:
    """`auto` is what a build uses on that device."""
    return DEFAULT_DTYPES[device.type] if dtype == "auto" else dtype


def subject_of(options: argparse.Namespace, *, layers: int | None = None) -> Subject:
    """What the options ask for; sets torch's threads."""
    import torch

    torch.set_num_threads(options.threads)
    if options.model is None:
        return shape_subject(options.shape, device=options.device, dtype=options.dtype, layers=layers)
    from atlas.surgery.subject import device_of, load_subject

    target = device_of(options.device)
    return load_subject(options.model, device=str(target), dtype=dtype_of(options.dtype, target))
