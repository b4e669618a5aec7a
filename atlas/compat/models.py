"""The original's models by name, and any other that this library knows.

model, tokenizer = initialize_model_and_tokenizer("bert-base-uncased")
subject = subject_of(model, tokenizer)           # what the rest of the library works with
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from atlas.errors import ModelError
from atlas.models import locate
from atlas.models.families import family_of
from atlas.surgery.subject import Subject, device_of, load_subject

BERT_MODELS = ["bert-base-uncased", "bert-base-multilingual-uncased"]
GPT2_MODELS = ["gpt2"]
GPT_NEO_MODELS = ["EleutherAI/gpt-neo-125M", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neo-2.7B"]
ALL_MODELS = BERT_MODELS + GPT2_MODELS + GPT_NEO_MODELS


def initialize_model_and_tokenizer(model_name: str) -> tuple[nn.Module, object]:
    """The model, in evaluation mode and float32 on the CPU, and its tokenizer.

    Beside `ALL_MODELS`: any name that `atlas.surgery.load_subject` takes, as "pocket-bert", a folder or a hub
    id of a supported family. Raises `ModelError` where it cannot be had.
    """
    subject = load_subject(model_name, device="cpu")
    return subject.model.requires_grad_(True), subject.tokenizer


def model_type(model_name: str) -> str:
    """ "bert", "gpt2", "gpt_neo", or for other models what their config says, such as "llama"."""
    for names, kind in ((BERT_MODELS, "bert"), (GPT2_MODELS, "gpt2"), (GPT_NEO_MODELS, "gpt_neo")):
        if model_name in names:
            return kind
    config = locate(model_name).config()
    family_of(config)  # or one sentence that says which there are
    return config["model_type"]


def subject_of(model: nn.Module, tokenizer: object, *, device: str | torch.device | None = None) -> Subject:
    """A `Subject` made of a language model and its tokenizer, which are not copied.

    The model is moved to the device (None: a GPU where there is one) and to float32, put in evaluation mode,
    and its parameters need no gradients any more. Raises `ModelError` for a model of no supported family or
    without the head that answers.
    """
    subject = subject_in_use(model, tokenizer, device=device)
    subject.model.eval().requires_grad_(False)
    return subject


def subject_in_use(
    model: nn.Module, tokenizer: object, *, device: str | torch.device | None = None
) -> Subject:
    """The same of a model that goes on being trained: to be asked inside `as_studied` only."""
    has_config = hasattr(model, "config")
    family = family_of(model.config.to_dict() if has_config else {"model_type": type(model).__name__})
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
        model=model.to(target, torch.float32),
        tokenizer=tokenizer,
        family=family,
        device=target,
        dtype="float32",
    )


@contextmanager
def as_studied(subject: Subject) -> Iterator[None]:
    """Inside, the model is in evaluation mode and its parameters need no gradients; then as it was before."""
    model = subject.model
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    subject.device = next(model.parameters()).device  # it may have been moved
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
