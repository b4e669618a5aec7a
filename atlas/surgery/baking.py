"""Write a changed copy of the weights, to keep an erasure or an edit.

    subject.bake(Edit(neurons, old="Paris", new="Rome"), "my-bert-edited")
    load_subject("my-bert-edited").predict(prompts)

Writes a folder for `from_pretrained`: config, tokenizer, and safetensors whose down-projections hold the new
value vectors. The live model is only read. What changes activations acts at the answer position only, so it
cannot be baked into weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from atlas.errors import AtlasError, ModelError
from atlas.files import looked_up
from atlas.models.families import neurons_first
from atlas.neuron import Neuron
from atlas.surgery.interventions import ActivationChange, Intervention, value_changes
from atlas.surgery.loaded import LoadedModel


def bake(subject: LoadedModel, interventions: Sequence[Intervention], folder: Path) -> Path:
    """Write the subject with these interventions in its weights to `folder`, and return the folder."""
    for item in interventions:
        if isinstance(item, ActivationChange):
            raise AtlasError(
                f"{type(item).__name__} changes activations, not weights, so it cannot be baked. "
                "Bake an Erase or an Edit."
            )
    folder = looked_up(folder, ModelError)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists and is not empty. Give a new folder for the changed weights.")
    state = dict(subject.model.state_dict())
    layers = subject.family.layer_modules(subject.model)
    for layer, (neurons, values) in value_changes(subject, interventions).items():
        down = subject.family.down(subject.model, layer)
        if sum(each is layers[layer] for each in layers) > 1:
            raise ModelError(
                f"{subject.name} shares the weights of {Neuron(layer, neurons[0])} between layers, so it "
                "cannot be baked. Apply it with `subject.applied`."
            )
        name = next(name for name, each in subject.model.named_parameters() if each is down.weight)
        state[name] = state[name].clone()
        rows = neurons_first(down, state[name])
        rows[neurons] = values.to(rows.dtype)
    # Atomic: written to a folder beside it, then renamed.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        subject.model.save_pretrained(partial, state_dict=state)
        subject.tokenizer.save_pretrained(partial)
        partial.replace(folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written ({error}). Choose another place.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
