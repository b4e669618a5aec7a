"""The command sets torch's threads for its process, which here is the other tests' too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

SHAPES = ("bert-tiny", "gpt2-tiny", "llama-tiny")


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SHAPES)
def subject(request: pytest.FixtureRequest):
    """A tiny model of each kind, with random weights."""
    from build.bench.models import named_subject

    return named_subject(request.param)
