"""The original's models by name, and any other of a supported family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from atlas.models import locate
from atlas.models.families import family_of
from atlas.surgery.subject import load_subject

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
    """ "bert", "gpt2", "gpt_neo", or for other models the type in their config, such as "llama"."""
    for names, kind in ((BERT_MODELS, "bert"), (GPT2_MODELS, "gpt2"), (GPT_NEO_MODELS, "gpt_neo")):
        if model_name in names:
            return kind
    config = locate(model_name).config()
    family_of(config)  # refuses unsupported types
    return config["model_type"]


@contextmanager
def as_studied(model: nn.Module) -> Iterator[None]:
    """Restore the model's training mode and gradients after the block."""
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
