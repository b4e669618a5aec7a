"""The report says what the tables say, for every atlas, whatever it lacks; and it can say no."""

from __future__ import annotations

from pathlib import Path

import pytest

from build.__main__ import main
from tests.sample_atlas import write_sample_atlas


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


def test_the_command_writes_a_report_and_charts(sample: Path, tmp_path: Path):
    out = tmp_path / "report"
    assert main(["figures", str(sample), "--out", str(out)]) == 0
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# ")
    names = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"suppress--sample", "layers--sample"} <= names
    for ending in ("png", "html"):
        assert {path.stem for path in (out / "figures").glob(f"*.{ending}")} == names
