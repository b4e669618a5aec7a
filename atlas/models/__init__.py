"""Known models, and where models' files are. Never imports torch.

located = locate("pocket-bert")             # or a local folder, or a hub id
located.folder, located.weights_sha256
"""

from atlas.models.folder import LocatedModel, same_model, weights_sha256
from atlas.models.known import (
    CACHE_VARIABLE,
    KNOWN_MODELS,
    POCKET_BERT,
    SMOLLM2,
    KnownModel,
    cache_folder,
    known_model,
    title_of,
)
from atlas.models.location import fetch_model, is_ready, locate, may_be_on_hub

__all__ = [
    "CACHE_VARIABLE",
    "KNOWN_MODELS",
    "POCKET_BERT",
    "SMOLLM2",
    "KnownModel",
    "LocatedModel",
    "cache_folder",
    "fetch_model",
    "is_ready",
    "known_model",
    "locate",
    "may_be_on_hub",
    "same_model",
    "title_of",
    "weights_sha256",
]
