"""The original's models by name, and any other of a supported family.

model, tokenizer = initialize_model_and_tokenizer("bert-base-uncased")
subject = subject_of(model, tokenizer)           # for the rest of the library
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from atlas.errors import ModelError
from atlas.models import locate
from atlas.models.families import family_of
from atlas.surgery.subject import Subject, device_of, load_subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BERT_MODELS = ["bert-base-uncased", "bert-base-multilingual-uncased"]
GPT2_MODELS = ["gpt2"]
GPT_NEO_MODELS = ["EleutherAI/gpt-neo-125M", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neo-2.7B"]
ALL_MODELS = BERT_MODELS + GPT2_MODELS + GPT_NEO_MODELS


def initialize_model_and_tokenizer(model_name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in evaluation mode and float32 on the CPU, and its tokenizer.

    model_name: one of `ALL_MODELS`, or any name, folder or hub id that `atlas.surgery.load_subject` takes.
    Raises `ModelError` when the model cannot be loaded.
    """
    subject = load_subject(model_name, device="cpu")
    return subject.model.requires_grad_(True), subject.tokenizer


def model_type(model_name: str) -> str:
    """ "bert", "gpt2", "gpt_neo", or for other models what their config says, such as "llama"."""
    for names, kind in ((BERT_MODELS, "bert"), (GPT2_MODELS, "gpt2"), (GPT_NEO_MODELS, "gpt_neo")):
        if model_name in names:
            return kind
    config = locate(model_name).config()
    family_of(config)  # refuses unsupported types
    return config["model_type"]


def subject_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, device: str | torch.device | None = None
) -> Subject:
    """A `Subject` made of a language model and its tokenizer, which are not copied.

    The model is moved to the device (None: a GPU where there is one) and to float32, put in evaluation mode,
    and its parameters need no gradients any more. Raises `ModelError` for a model of no supported family or
    without the head that answers.
    """
    config = model.config.to_dict() if hasattr(model, "config") else {"model_type": type(model).__name__}
    family = family_of(config)
    try:
        family.layer_modules(model)
        for name in (*family.head, family.unembedding):
            model.get_submodule(name)
    except AttributeError:
        raise ModelError(
            f"A {type(model).__name__} has no head that answers. Give the whole language model, as "
            "AutoModelForMaskedLM or AutoModelForCausalLM load it."
        ) from None
    if family.kind == "masked" and getattr(tokenizer, "mask_token_id", None) is None:
        raise ModelError("The tokenizer has no mask token. Give the masked language model's own.")
    target = device_of("auto" if device is None else str(device))
    return Subject(
        name=str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
        revision="",
        weights_sha256="",
        model=model.to(device=target, dtype=torch.float32).eval().requires_grad_(False),  # type: ignore[call-arg]
        tokenizer=tokenizer,
        family=family,
        device=target,
        dtype="float32",
    )


@contextmanager
def as_studied(model: nn.Module) -> Iterator[None]:
    """Inside the block, the model may be put in evaluation mode and frozen; then it is as it was before."""
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
