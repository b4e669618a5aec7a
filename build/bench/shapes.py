"""What is measured: models of public sizes with random weights, or loaded ones, and prompts for them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from atlas.neuron import Prompt

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

# transformers' config, its options: the public models' sizes, and two for the tests.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "gpt2": ("gpt2", {}),
    "bert-tiny": (
        "bert",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 64},
    ),
    "gpt2-tiny": ("gpt2", {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 2}),
}
SUBJECTS = ("france", "italy", "japan", "peru", "kenya", "norway", "egypt", "chile", "nepal", "ghana")
ANSWERS = ("paris", "rome", "tokyo", "lima", "nairobi", "oslo", "cairo", "santiago", "kathmandu", "accra")
PATTERNS = {
    "masked": "the capital of {} is called [Y] .",  # ten tokens with [CLS] and [SEP]
    "causal": "on this old map the capital of {} is called [Y]",  # ten tokens before the answer
}
SEED = 20220308


def shape_subject(shape: str) -> Subject:
    """A subject of that shape, with transformers' own random weights and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

    from atlas.surgery.families import family_of
    from atlas.surgery.subject import Subject

    model_type, sizes = SHAPES[shape]
    family = family_of(model_type)
    words = sorted({*" ".join(PATTERNS.values()).replace("[Y]", "").split(), *SUBJECTS, *ANSWERS} - {"{}"})
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    config = AutoConfig.for_model(model_type, **sizes)
    vocabulary = {token: index for index, token in enumerate((*specials, *words))}
    vocabulary |= {f"[unused{index}]": index for index in range(len(vocabulary), config.vocab_size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if family.kind == "masked":
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}

    torch.manual_seed(SEED)
    auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
    model = auto.from_config(config)
    return Subject(
        name=f"{shape} shape, random weights",
        revision="",
        weights_sha256="",
        model=model.float().eval().requires_grad_(False),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, **names),
        family=family,
        device=torch.device("cpu"),
        dtype="float32",
    )


def subject_of(options: argparse.Namespace) -> Subject:
    import torch

    torch.set_num_threads(options.threads)
    if options.model is None:
        return shape_subject(options.shape)
    from atlas.surgery.subject import load_subject

    return load_subject(options.model, device="cpu")


def bench_prompts(kind: str, n: int) -> list[Prompt]:
    """`n` prompts of ten tokens (of whole-word tokenizers)."""
    pairs = [(SUBJECTS[i % len(SUBJECTS)], ANSWERS[i % len(ANSWERS)]) for i in range(n)]
    return [Prompt(f"{i}", "bench", PATTERNS[kind].format(*pair), pair[1]) for i, pair in enumerate(pairs)]
