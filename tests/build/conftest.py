"""Fixtures of the builder's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from build.__main__ import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function: arguments → the sentence on stderr; nothing is printed beside it."""

    def refuse(*arguments: object) -> str:
        assert main([str(each) for each in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert len(captured.err.strip().splitlines()) == 1
        return captured.err

    return refuse
