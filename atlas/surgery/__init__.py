"""A loaded model, its predictions and its changes: loading, interventions, readout.

    from atlas.surgery import load_subject, attribute, Suppress
    subject = load_subject("pocket-bert")

This package, `atlas.attribution` and `atlas.experiments` import torch; browsing never does.
"""

from importlib import import_module
from typing import Any

from atlas.interventions import Amplify, Edit, Erase, Patch, SetTo, Suppress
from atlas.surgery.interventions import by_sign
from atlas.surgery.readout import readout
from atlas.surgery.subject import Prediction, Subject, load_subject

__all__ = [
    "Amplify",
    "Edit",
    "Erase",
    "Patch",
    "Prediction",
    "SetTo",
    "Subject",
    "Suppress",
    "by_sign",
    "load_subject",
    "readout",
]


def __getattr__(name: str) -> Any:
    # One import for a session with a model; lazy, because attribution imports this package.
    if name in ("Attribution", "attribute"):
        return getattr(import_module("atlas.attribution"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
