"""The example notebook runs, and what it shows is what it gives."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import NOTEBOOKS, executed, texts
from tests.project.test_docs import FORBIDDEN, dangling_of, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_gives_the_outputs_that_it_keeps(path: Path):
    kept = nbformat.read(path, as_version=4)
    assert texts(executed(path)) == texts(kept)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_was_run_once_from_top_to_bottom(path: Path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result"), cell.source
            assert output.get("name") != "stderr", output.text
            # A chart that only a notebook server draws is no picture elsewhere.
            if output.get("data", {}).get("text/plain", "").startswith("alt."):
                assert "image/png" in output.data


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_opens_with_a_title_and_its_links_lead_somewhere(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    assert re.match(r"# \S", cells[0].source)
    words = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert dangling_of(words, path) == []
    assert FORBIDDEN.findall("\n".join([words, *(cell.source for cell in cells)])) == []
    assert (
        FORBIDDEN.findall("\n".join(text for _, shown in texts(nbformat.read(path, 4)) for text in shown))
        == []
    )


def test_there_is_a_notebook():
    assert NOTEBOOKS
