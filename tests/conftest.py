"""Fixtures: tiny models of every family, made offline, saved once a session.

    def test_something(tiny_bert): ...        # a folder that transformers can load
    def test_something(tiny_folder): ...      # once for every family

torch is imported only by the fixtures that need it, so that the tests of the browsing half start fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for a hub fails at once instead of hanging
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
if "PYTEST_XDIST_WORKER" in os.environ:  # several at once share the cores
    os.environ["OMP_NUM_THREADS"] = "1"

TINY_MODELS = ("tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_qwen2", "tiny_qwen3", "tiny_mistral")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function: name of a tiny model → its folder, saved at the first call."""
    parent = tmp_path_factory.mktemp("models")

    def folder_of(name: str) -> Path:
        from tests.tiny_models import save_tiny

        folder = parent / name
        return folder if folder.exists() else save_tiny(name, parent)

    return folder_of


@pytest.fixture(scope="session")
def tiny_bert(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_bert")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_gpt2")


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_qwen2")


@pytest.fixture(scope="session")
def tiny_qwen3(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_qwen3")


@pytest.fixture(scope="session")
def tiny_mistral(tiny: Callable[[str], Path]) -> Path:
    return tiny("tiny_mistral")


@pytest.fixture(scope="session", params=TINY_MODELS)
def tiny_folder(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    """The folder of each tiny model in turn."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small atlas; see `tests.sample_atlas`."""
    from tests.sample_atlas import write_sample_atlas

    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No atlas that somebody imported on this machine, unless a test names a cache of its own."""
    from atlas.models import CACHE_VARIABLE
    from atlas.store import atlas as store

    real, usual = store.imported_folder, os.environ.get(CACHE_VARIABLE)
    monkeypatch.setattr(
        store,
        "imported_folder",
        lambda: real() if os.environ.get(CACHE_VARIABLE) != usual else Path("nothing imported"),
    )


@pytest.fixture
def only_sample(sample: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No atlas but the sample, as on a machine that built its own."""
    from atlas.store import atlas as store

    monkeypatch.setattr(store, "DATA", sample / "none")
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(sample))
    return sample


@pytest.fixture
def went_to(monkeypatch: pytest.MonkeyPatch) -> list:
    """The pages that a click on a chart leads to, with their parameters.

    Streamlit's test driver knows no pages while callbacks run, as a browser's session does.
    """
    import streamlit

    visits: list = []
    monkeypatch.setattr(
        streamlit, "switch_page", lambda page, *, query_params=None: visits.append((page, query_params))
    )
    return visits
