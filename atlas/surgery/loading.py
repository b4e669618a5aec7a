"""Read a model and its tokenizer from a folder, and refuse what would not be computed as it was trained.

    model, tokenizer = read_model(folder, name)
    family = check_model(model, tokenizer, name)     # also of a model that somebody else has loaded

1. *Config.* The model is made without memory for its weights; one that is larger than its weights is refused.
2. *Weights.* Tensors that are missing, unexpected or of another shape are refused.
3. *Model.* Adapters, quantised layers and a mask without an embedding are refused.

`atlas.models.folder` has checked the files before, without torch.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atlas.errors import ModelError
from atlas.models.checkpoint import is_beside, read_tensors
from atlas.models.families import Family, family_of
from atlas.models.folder import weight_files
from atlas.validation import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TABLES = 10_000_000
"""Numbers that a model may compute beside its weights, as for positions."""

# Options of a config that say how the model is run, and what the hooks need of them.
_AS_STUDIED = {"return_dict": True, "chunk_size_feed_forward": 0}

_OWN_WEIGHTS = "Give the config.json and the weights that were saved together."


def read_model(folder: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer in a folder; `ModelError` where they cannot be read.

    name: the model's name in errors. Safetensors only; no remote code is run.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoTokenizer,
        PretrainedConfig,
    )
    from transformers.utils import logging as transformers_logging

    # Progress bars and load reports are for interactive use.
    transformers_logging.disable_progress_bar()
    for source in ("transformers.modeling_utils", "transformers.distributed.tensor_parallel"):
        logging.getLogger(source).setLevel(logging.ERROR)
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        # The type first: the configs of unsupported families may not even parse.
        family = family_of(PretrainedConfig.get_config_dict(folder, **safe)[0])
        config = AutoConfig.from_pretrained(folder, transformers_weights=None, **_AS_STUDIED, **safe)
        auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
        # Step 1
        with torch.device("meta"):
            _check_size(auto.from_config(config), folder)
        # Step 2
        read: Any = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
            **safe,
        )
        model, report = read
        _check_report(report, name)
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        tokenizer.encode("words ☃")  # one of another kind of model fails only here
    except ModelError:
        raise
    except Exception as error:  # transformers raises whatever a config, weights or a tokenizer lead to
        reason = one_line(error, 200).rstrip(".:")
        if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):
            reason = f"{type(error).__name__}: {reason}"
        raise ModelError(
            f"The model {name} cannot be loaded: {reason}. "
            "Give a folder with config.json, a tokenizer and *.safetensors."
        ) from error
    return model, tokenizer


def _check_size(model: PreTrainedModel, folder: Path) -> None:
    """Step 1; the model's tensors have no memory yet."""
    n_wanted = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    n_found = sum(math.prod(shape) for _, shape in read_tensors(weight_files(folder)).values())
    if n_wanted > 2 * n_found + TABLES:
        raise ModelError(
            f"{folder / 'config.json'} describes a model of {n_wanted:,} numbers, and its weights have "
            f"{n_found:,}. {_OWN_WEIGHTS}"
        )


def _check_report(report: dict[str, Any], name: str) -> None:
    """Step 2."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        tensor, found, wanted = mismatched[0]
        raise ModelError(
            f"The config.json of {name} describes other shapes than its weights have ({len(mismatched)} "
            f"tensors): {one_line(tensor, 100)} is {tuple(found)}, not {tuple(wanted)}. {_OWN_WEIGHTS}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights of {name} lack {len(missing)} tensors, first {missing[0]}, which would be random. "
            "Give the weights of a whole language model."
        )
    unexpected = sorted(key for key in report["unexpected_keys"] if not is_beside(key))
    if unexpected:
        raise ModelError(
            f"The config.json of {name} does not describe all of its weights ({len(unexpected)} tensors "
            f"more): '{one_line(unexpected[0], 100)}'. {_OWN_WEIGHTS}"
        )


def check_no_adapters(model: PreTrainedModel, name: str) -> None:
    """Raises `ModelError` for a model whose layers are wrapped, as PEFT does."""
    if hasattr(model, "peft_config") or any(hasattr(module, "base_layer") for module in model.modules()):
        raise ModelError(
            f"{name} has adapters (PEFT), which are not in its weights. Merge them with PEFT's "
            "`merge_and_unload()`."
        )


def check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> Family:
    """Step 3: the model's family. Raises `ModelError` where its modules are not the family's."""
    kind = type(model).__name__
    check_no_adapters(model, name or kind)
    family = family_of(model.config.to_dict() if hasattr(model, "config") else {"model_type": kind})
    try:
        family.layer_modules(model)
        for module in (*family.head, family.unembedding):
            model.get_submodule(module)
    except AttributeError:
        raise ModelError(
            f"{kind} has no language-modelling head. Load the model with AutoModelForMaskedLM or "
            "AutoModelForCausalLM."
        ) from None
    for option, usual in _AS_STUDIED.items():
        value = getattr(model.config, option, usual)
        if value != usual:
            raise ModelError(f"{name} has {option}={value!r} in its config. Load it with {option}={usual}.")
    if not all(each.is_floating_point() for each in model.parameters()):
        raise ModelError(f"The weights of {name} are quantised. Load the model's float weights.")
    if any(each.is_meta for each in model.parameters()):
        raise ModelError(f"The weights of {name} are not in memory. Load the model without `device_map`.")
    if family.kind == "masked":
        mask, n_tokens = tokenizer.mask_token_id, model.get_input_embeddings().weight.shape[0]
        if mask is None:
            raise ModelError(f"The tokenizer of {name} has no mask token. Give the model's own tokenizer.")
        if mask >= n_tokens:
            raise ModelError(
                f"The mask token {tokenizer.mask_token} of {name} has the number {mask:,}, and the model has "
                f"{n_tokens:,} embeddings. Give the model's own tokenizer."
            )
    return family
