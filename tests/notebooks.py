"""Notebooks, run anew: the example notebook of docs/ keeps the outputs that running it gives.

    python -m tests.notebooks            # runs docs/*.ipynb and saves their outputs

The kernel is this interpreter's, its working folder one that is thrown away.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests import ROOT

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
SECONDS = 300


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs that its cells give now; raises where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    # Without widgets, tqdm warns, and names a path of this machine.
    os.environ.update(HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        client.execute()
    return notebook


def texts(notebook: nbformat.NotebookNode) -> list[tuple[int, list[str]]]:
    """What each code cell prints and shows as text, by the cell's place."""
    found = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            shown = [
                o.text if o.output_type == "stream" else o.data.get("text/plain", "") for o in cell.outputs
            ]
            found.append((place, shown))
    return found


def main() -> None:
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(path.name)


if __name__ == "__main__":
    main()
