"""Compare a folder's config.json with its weights, from their header: no torch, nothing large in memory.

    check_config(config, folder)                 # types and ranges; neither quantised nor for other hardware
    tensors = read_tensors(files)                # name → its dtype and shape
    check_tensors(tensors, config, folder)       # floating point, as many layers as the config has
    config_sha256(config)                        # the part of a model's identity that the weights lack

`atlas.surgery.loading` compares names and shapes with the model's class.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, create_model

from atlas.errors import ModelError
from atlas.models.families import family_of, layer_count_of
from atlas.validation import one_line, problem_of

# The largest value of each number that a config's class makes modules, lists or tables from.
_LARGEST = {
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "inner_group_num"): 10_000,
    ("num_attention_heads", "n_head", "num_heads", "n_heads", "type_vocab_size"): 10_000,
    ("hidden_size", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"): 1 << 24,
    ("ffn_dim", "hidden_dim", "vocab_size"): 1 << 24,
    ("max_position_embeddings", "n_positions"): 1 << 27,
    ("num_labels",): 10_000,
    ("num_hidden_groups",): 100,
}
_SIZE = Annotated[int, Field(ge=1, le=1 << 24)]
_KINDS: dict[tuple[str, ...], Any] = {
    **{names: Annotated[int, Field(ge=1, le=largest)] for names, largest in _LARGEST.items()},
    ("intermediate_size", "n_inner", "head_dim", "num_key_value_heads"): _SIZE | None,
    ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"): Annotated[float, Field(gt=0)],
    ("rope_theta",): Annotated[float, Field(gt=0)] | None,
    ("hidden_act", "hidden_activation", "activation_function", "activation"): str | None,
    ("dtype", "torch_dtype"): Literal["float32", "float16", "bfloat16", "float64", "auto"] | None,
    ("attn_implementation",): Literal["eager", "sdpa"] | None,
    ("tie_word_embeddings", "is_decoder"): bool,
    ("architectures",): list[str] | str | None,
}
_FIELDS: dict[str, Any] = {name: (kind, None) for names, kind in _KINDS.items() for name in names}
# pydantic's own attributes begin with an underscore.
_FIELDS["attention"] = (_FIELDS["attn_implementation"][0], Field(None, alias="_attn_implementation"))
_Text: Any = create_model("_Text", __config__=ConfigDict(strict=True), **_FIELDS)
# An image encoder beside a language model: made, and not compared with the weights' layers.
_IMAGE_LAYERS = Annotated[int, Field(ge=1, le=200)]
_Image: Any = create_model("_Image", __base__=_Text, num_hidden_layers=(_IMAGE_LAYERS, None))
_Config: Any = create_model(
    "_Config", __base__=_Text, text_config=(_Text | None, None), vision_config=(_Image | None, None)
)

_FLOATS = {"F16", "BF16", "F32", "F64"}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""A tensor's name → its dtype, as safetensors writes it, and its shape."""


def check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Raises `ModelError` for a type without a family, a value of a wrong type or size, quantised weights."""
    family, file = family_of(config), folder / "config.json"
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        raise ModelError(f"{problem_of(error, str(file))}. Correct it, or save the model again.") from None
    if family.kind == "masked" and config.get("is_decoder"):
        raise ModelError(f"{file} makes a masked model a decoder. Set is_decoder to false.")
    for part in (config, config.get("text_config") or {}):
        quantised = part.get("quantization_config")
        if quantised is None:
            continue
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ModelError(
            f"The weights in {folder} are quantised ({one_line(method or 'quantization_config', 40)}). "
            "Give the model's float weights, or save it again after `model.dequantize()`."
        )


@cache
def _tensors_of(file: Path, size: int, mtime_ns: int) -> Tensors:
    # Size and time are part of the key, so that a replaced file is read again.
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        return {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}


def read_tensors(files: Sequence[Path]) -> Tensors:
    """The tensors of safetensors files, from their headers. Raises `ModelError` for a damaged file."""
    from safetensors import SafetensorError

    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        try:
            stat = file.stat()
            tensors |= _tensors_of(file, stat.st_size, stat.st_mtime_ns)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} cannot be read ({one_line(error)}). Copy or save it again.") from None
    return tensors


# What checkpoints hold beside a language model: poolers and heads of other tasks, and tables that the model
# computes. None of them takes part in a prediction.
_BESIDE = re.compile(
    r"(^|\.)(pooler|seq_relationship|sop_classifier|discriminator_predictions)\."
    r"|(^|\.)(v_head|multiple_choice_head)\."
    r"|(^|\.)(position_ids|token_type_ids|inv_freq|cos_cached|sin_cached|masked_bias|version)$"
    r"|(^|\.)(attn|attention|crossattention)\.bias$"
)


def is_beside(name: str) -> bool:
    """Whether a tensor of this name takes no part in a language model's predictions."""
    return _BESIDE.search(name) is not None


def check_tensors(tensors: Tensors, config: Mapping[str, Any], folder: Path) -> None:
    """Raises `ModelError` for weights that are not floating point, or of another number of layers."""
    for name, (dtype, _) in tensors.items():
        if dtype not in _FLOATS and not is_beside(name):
            raise ModelError(
                f"The tensor {one_line(name)} in {folder} is {dtype}, not floating point. "
                "Give the model's float weights."
            )
    wanted, found = layer_count_of(config), _layers_in(tensors, config)
    if wanted is not None and found and wanted != found:
        raise ModelError(
            f"{folder / 'config.json'} describes {wanted:,} layers, and the weights have {found:,}. "
            "Restore the config.json that was saved with them."
        )


def _layers_in(tensors: Tensors, config: Mapping[str, Any]) -> int:
    """Numbers used for layers in tensors' names; 0 where depths share weights."""
    layers = family_of(config).layers
    if callable(layers):
        return 0
    # Checkpoints may lack the prefix ("h.0.mlp" for "transformer.h.0.mlp"); an image encoder has its own.
    place = re.compile(rf"(?:^|\.){layers.rpartition('.')[2]}\.(\d+)\.")
    numbers = {found[1] for name in tensors if "vision" not in name and (found := place.search(name))}
    return len(numbers)


# Fields that change no prediction: origin, training, generation.
_DESCRIPTIVE = re.compile(
    r"(_name_or_path|_attn_implementation|_commit_hash|.*dropout.*|.*pdrop|(bos|eos|unk|cls|sep)_token_id)"
    r"|(dtype|torch_dtype|architectures|auto_map|transformers_version)"
    r"|(id2label|label2id|num_labels|finetuning_task|problem_type|task_specific_params|summary_.*)"
    r"|(initializer_.*|use_cache|gradient_checkpointing|pretraining_tp|output_.*|return_dict.*|attn_implementation)"
)


def config_sha256(config: Mapping[str, Any]) -> str:
    """sha256 of the fields that may change a prediction, in which models of the same weights may differ."""

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: kept(each)
            for name, each in value.items()
            if each is not None and not _DESCRIPTIVE.fullmatch(name)
        }

    return hashlib.sha256(json.dumps(kept(config), sort_keys=True).encode()).hexdigest()
