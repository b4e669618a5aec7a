"""A folder that somebody brings is computed as it was trained, or refused in one sentence.

Each test changes one file of a tiny model. What a header or a config can tell is refused by `locate`, which
the plan, the Lab and `load_subject` go through, and which imports no torch.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from atlas.errors import ModelError
from atlas.models import is_ready, locate, same_model
from atlas.models.checkpoint import check_config
from atlas.models.families import FAMILIES
from atlas.store.atlas import open_atlas
from atlas.store.manifest import read_manifest
from build.__main__ import main


@pytest.fixture
def brought(tiny, tmp_path):
    """A function: name of a tiny model → a copy of its folder that a test may change."""

    def copy_of(name):
        return shutil.copytree(tiny(name), tmp_path / name)

    return copy_of


def configure(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def rewrite(folder, change):
    """Save the weights again after `change`, a function of a dictionary of tensors."""
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def refused(folder, *, by=locate):
    with pytest.raises(ModelError) as caught:
        by(str(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.replace(str(folder), "FOLDER")


def load(folder):
    from atlas.surgery import load_subject

    return load_subject(str(folder), device="cpu")


def probability(subject):
    mark = "[Y] ." if subject.family.kind == "masked" else "[Y]"
    return subject.predict([subject.prompt(f"the capital of france is {mark}", "paris")])[0].probability


CONFIGS = [
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "(bitsandbytes)"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "(gptq)"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "(awq)"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "(compressed-tensors)"),
    ({"quantization_config": {}}, "quantised"),
    ({"attn_implementation": "flash_attention_2"}, "must be 'eager' or 'sdpa', got \"flash_attention_2\""),
    ({"_attn_implementation": "flash_attention_3"}, "must be 'eager' or 'sdpa', got \"flash_attention_3\""),
    ({"num_hidden_layers": "3"}, 'num_hidden_layers must be a whole number, got "3"'),
    ({"num_hidden_layers": 3.0}, "num_hidden_layers must be a whole number, got 3.0"),
    ({"num_hidden_layers": None}, "num_hidden_layers must be a whole number"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number, got true"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers must be at most 10000, got 1000000"),
    ({"vocab_size": 10**12}, "vocab_size must be at most 16777216"),
    ({"num_labels": 10**8}, "num_labels must be at most 10000, got 100000000"),
    ({"num_attention_heads": [4]}, "num_attention_heads must be a whole number"),
    ({"dtype": "float99"}, "dtype must be 'float32', 'float16', 'bfloat16', 'float64' or 'auto'"),
    ({"torch_dtype": "int8"}, "torch_dtype must be"),
    ({"hidden_act": ["gelu"]}, "hidden_act must be text"),
    ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number"),
    ({"is_decoder": True}, "Set is_decoder to false"),
    ({"model_type": ["bert"]}, "are not supported"),
    ({"model_type": "t5"}, "Models of type 't5' are not supported"),
    ({"num_hidden_layers": 2}, "describes 2 layers, and the weights have 3"),
    ({"num_hidden_layers": 4}, "describes 4 layers, and the weights have 3"),
]


@pytest.mark.parametrize(("fields", "words"), CONFIGS, ids=lambda value: str(value)[:60])
def test_a_config_that_cannot_be_computed_is_refused_before_torch(brought, fields, words):
    assert words in refused(configure(brought("tiny_bert"), **fields))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("tiny_gpt2", {"n_layer": 1}, "describes 1 layers, and the weights have 3"),
        ("tiny_gpt2", {"n_inner": "72"}, 'n_inner must be a whole number, got "72"'),
        ("tiny_llama", {"num_key_value_heads": 0}, "num_key_value_heads must be at least 1, got 0"),
        ("tiny_llama", {"num_hidden_layers": 9}, "describes 9 layers, and the weights have 3"),
        ("tiny_distilbert", {"n_layers": 2}, "describes 2 layers, and the weights have 3"),
        ("tiny_gemma3", {"text_config": {"num_hidden_layers": "3"}}, "text_config.num_hidden_layers must be"),
    ],
)
def test_every_familys_own_names_of_the_sizes_are_checked(brought, name, fields, words):
    assert words in refused(configure(brought(name), **fields))


def test_the_plan_says_the_same_sentence_as_loading(brought, capsys):
    folder = configure(brought("tiny_bert"), quantization_config={"quant_method": "gptq"})
    sentence = refused(folder, by=load)
    assert sentence == refused(folder)
    assert main(["plan", "--model", str(folder), "--dataset", "starter"]) == 2
    assert capsys.readouterr().err.strip().replace(str(folder), "FOLDER") == sentence


@pytest.mark.parametrize(
    "fields",
    [
        {"torch_dtype": "bfloat16"},
        {"dtype": None},
        {"attn_implementation": "eager"},
        {"architectures": None},
        {"num_labels": 3},
        {"quantization_config": None},
        {"chunk_size_feed_forward": 2},
        {"return_dict": False},
        {"transformers_weights": "other.safetensors"},
        {"auto_map": {"AutoModelForMaskedLM": "code.Model"}},
    ],
    ids=str,
)
def test_a_config_that_says_how_to_run_a_model_changes_no_prediction(brought, tiny, fields):
    folder = configure(brought("tiny_bert"), **fields)
    assert probability(load(folder)) == pytest.approx(probability(load(tiny("tiny_bert"))), rel=1e-5)


# --- weights ---


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header too small"),
        (b"\xff" * 2000, "header too large"),
        (b"\x08\0\0\0\0\0\0\0not json", "invalid JSON in header"),
    ],
)
def test_damaged_weights_are_refused(brought, content, words):
    folder = brought("tiny_bert")
    (folder / "model.safetensors").write_bytes(content)
    assert words in refused(folder)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": 1, "b": 2}},
        {"weight_map": {"a": 1, "b": "model.safetensors"}},
        {"weight_map": ["model.safetensors"]},
        {"weight_map": {}},
        {"weight_map": {"a": "../tiny_bert/model.safetensors"}},
        {"weight_map": {"a": "x" * 300}, "metadata": 3},
        {"weight_map": {"a": "x" * 300}, "metadata": {}},
        [],
        "[" * 100_000,
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_index_of_anything_but_file_names_is_refused(brought, index):
    folder = brought("tiny_bert")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    assert "index.json cannot be read" in refused(folder)


def test_a_folder_of_an_adapter_is_refused(brought):
    folder = brought("tiny_bert")
    (folder / "adapter_config.json").write_text("{}")
    assert "`merge_and_unload()`" in refused(folder)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float8_e4m3fn"])
def test_weights_that_are_not_floating_point_are_refused(brought, dtype):
    import torch

    folder = rewrite(
        brought("tiny_gpt2"), lambda w: {name: each.to(getattr(torch, dtype)) for name, each in w.items()}
    )
    assert "not floating point" in refused(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_every_floating_type_are_read(brought, tiny, dtype):
    import torch

    folder = rewrite(
        brought("tiny_gpt2"), lambda w: {name: each.to(getattr(torch, dtype)) for name, each in w.items()}
    )
    assert probability(load(folder)) == pytest.approx(probability(load(tiny("tiny_gpt2"))), rel=0.05)


def _one(change):
    def changed(tensors):
        name = next(name for name in sorted(tensors) if tensors[name].ndim == 2 and "layer.1" in name)
        return tensors | {name: change(tensors[name])}

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_one(lambda t: t[:-1]), "describes other shapes than its weights have (1 tensors)"),
        (_one(lambda t: t[None]), "describes other shapes"),
        (lambda w: {name: each for name, each in w.items() if "LayerNorm" not in name}, "lack 16 tensors"),
        (lambda w: {name: each for name, each in w.items() if "cls" not in name}, "lack 6 tensors"),
        (lambda w: w | {"bert.embeddings.more": w["cls.predictions.bias"].clone()}, "does not describe all"),
        (
            lambda w: w | {"bert.encoder.layer.1.lora_A.weight": w["cls.predictions.bias"].clone()},
            "'bert.encoder.layer.1.lora_A.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(brought, change, words):
    assert words in refused(rewrite(brought("tiny_bert"), change), by=load)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_config_that_a_type_comes_with_is_taken(model_type):
    from transformers import AutoConfig

    check_config(json.loads(AutoConfig.for_model(model_type).to_json_string()), Path("folder"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "albert", "num_hidden_groups": 1_000_000}, "num_hidden_groups"),
        ({"model_type": "gemma3", "vision_config": {"num_hidden_layers": 3_000}}, "num_hidden_layers"),
        ({"model_type": "gemma3", "vision_config": {"hidden_size": "16"}}, "hidden_size"),
        ({"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
    ],
)
def test_the_parts_of_a_config_are_checked_as_the_whole(config, words):
    with pytest.raises(ModelError, match=words):
        check_config(config, Path("folder"))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tiny_bert", {"vocab_size": 16_000_000}),
        ("tiny_bert", {"hidden_size": 1_000_000}),
        ("tiny_bert", {"max_position_embeddings": 100_000_000}),
        ("tiny_gpt2", {"n_inner": 10_000_000}),
        ("tiny_gptj", {"n_positions": 100_000_000}),
        ("tiny_gpt_neo", {"max_position_embeddings": 1_000_000}),
        ("tiny_llama", {"head_dim": 1_000_000}),
        ("tiny_albert", {"vocab_size": 16_000_000}),
    ],
)
def test_a_model_far_larger_than_its_weights_is_refused_before_it_is_made(brought, name, fields):
    from atlas.surgery import loading

    folder = configure(brought(name), **fields)
    assert "describes a model of" in refused(folder, by=load)
    # No file holds more numbers than this, and no more than `TABLES` beside them may be made.
    assert (folder / "model.safetensors").stat().st_size < loading.TABLES


def test_what_hub_checkpoints_hold_beside_a_language_model_changes_nothing(brought, tiny):
    import torch

    def with_more(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for name, t in tensors.items()
        }
        return old | {
            "bert.pooler.dense.weight": torch.zeros(32, 32),
            "bert.pooler.dense.bias": torch.zeros(32),
            "cls.seq_relationship.weight": torch.zeros(2, 32),
            "cls.seq_relationship.bias": torch.zeros(2),
            "bert.embeddings.position_ids": torch.arange(64)[None],
            "bert.embeddings.token_type_ids": torch.zeros(1, 64, dtype=torch.int64),
            "v_head.summary.weight": torch.zeros(1, 32),
            "cls.predictions.decoder.weight": old["bert.embeddings.word_embeddings.weight"].clone(),
        }

    folder = rewrite(brought("tiny_bert"), with_more)
    assert probability(load(folder)) == probability(load(tiny("tiny_bert")))


def test_gpt2s_names_without_a_prefix_and_its_masks_are_read(brought, tiny):
    import torch

    def as_on_the_hub(tensors):
        plain = {name.removeprefix("transformer."): each for name, each in tensors.items()}
        masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8) for layer in range(3)}
        return {name: each for name, each in plain.items() if name != "lm_head.weight"} | masks

    folder = rewrite(brought("tiny_gpt2"), as_on_the_hub)
    assert probability(load(folder)) == probability(load(tiny("tiny_gpt2")))


# --- tokenizers ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mask_token": None}, "has no mask token"),
        ({"mask_token": "[ZZZ]"}, "The mask token [ZZZ]"),
        ({"model_max_length": "long"}, "cannot be loaded"),
        ({"tokenizer_class": "T5Tokenizer"}, "cannot be loaded"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(brought, fields, words):
    folder = brought("tiny_bert")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    assert words in refused(folder, by=load)


def test_a_file_of_another_size_is_checked_again(brought):
    folder = brought("tiny_bert")
    locate(str(folder))
    rewrite(folder, lambda w: {name: each for name, each in w.items() if "layer.2." not in name})
    assert "describes 3 layers, and the weights have 2" in refused(folder)


def test_checking_a_folder_imports_no_torch(tiny):
    import subprocess

    code = (
        "import sys; from atlas.models import locate; locate(sys.argv[1]);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny("tiny_bert"))], check=True)


# --- identity ---


@pytest.mark.parametrize(
    "fields",
    [{"num_attention_heads": 2}, {"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}, {"pad_token_id": 7}],
    ids=str,
)
def test_another_config_makes_another_model_of_the_same_weights(brought, tiny, fields):
    one, other = locate(str(tiny("tiny_bert"))), locate(str(configure(brought("tiny_bert"), **fields)))
    assert one.weights_sha256 == other.weights_sha256
    assert one.config_sha256 != other.config_sha256
    assert not same_model(one, other)
    assert load(other.folder).identity == (other.weights_sha256, other.config_sha256)


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": None},
        {"dtype": "bfloat16"},
        {"transformers_version": "9.0.0"},
        {"_name_or_path": "elsewhere"},
        {"hidden_dropout_prob": 0.5},
        {"id2label": {"0": "no"}},
        {"use_cache": False},
        {"sep_token_id": None},
    ],
    ids=str,
)
def test_a_config_that_computes_the_same_is_the_same_model(brought, tiny, fields):
    folder = configure(brought("tiny_bert"), **fields)
    assert same_model(locate(str(tiny("tiny_bert"))), locate(str(folder)))
    assert probability(load(folder)) == probability(load(tiny("tiny_bert")))


@pytest.mark.parametrize("atlas_id", ["starter-pocket-bert", "starter-smollm2-135m"])
def test_the_models_of_the_bundled_atlases_are_those_they_were_made_with(atlas_id):
    with open_atlas(atlas_id) as atlas:
        record = atlas.manifest.model
    if not is_ready(record.name):
        pytest.skip(f"{record.name} has not been fetched")
    assert same_model(locate(record.name), record)


def test_a_build_is_not_resumed_with_another_config(brought, tmp_path, capsys):
    folder = brought("tiny_bert")
    run = ["run", "--model", str(folder), "--dataset", "starter", "--relations", "P36", "--limit", "2"]
    run += ["--device", "cpu", "--threads", "1", "--out", str(tmp_path / "made")]
    assert main(run) == 0
    assert read_manifest(tmp_path / "made").model.config_sha256 == locate(str(folder)).config_sha256
    configure(folder, num_attention_heads=2)
    assert main(run) == 2
    assert "holds a finished atlas with config_sha256" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "made"), "--experiments", "suppress"]) == 2
    assert "made with other weights, or another config" in capsys.readouterr().err
