"""The report of several atlases: every claim of the thesis, judged, beside what was published.

    print(make_report([Path("atlas/data/starter-pocket-bert")], Path("out/report")))

1. *Judge* the claims by the atlases' tables (`atlas.claims`, which the app's page Evidence shows, too).
2. *Draw* each claim (`figures`), and *write* (`page`, from the templates beside it): `report.html`, which
   needs no other file, `report.md`, and each figure as SVG and PNG in `figures/`.

No model is needed. The same atlases give the same files, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from atlas.errors import BuildError
from atlas.store.atlas import Atlas
from build.output.writer import open_output, writing

INDEX = "report.json"
"""Names the files of a report, so that a folder is known to hold nothing else."""


def make_report(folders: Sequence[Path], out: Path) -> str:
    """Write the report of the atlases to `out`; returns a sentence on it.

    Raises an `AtlasError`, with nothing written, for a folder that is no atlas, or an `out` with other files.
    """
    for folder in folders:
        if not folder.is_dir():
            raise BuildError(f"There is no folder {folder}. Give the folders of atlases.")
    stale = _own_files(out)
    from atlas import claims
    from build.report import figures

    figures.converter()
    from build.report import page

    opened = [Atlas(folder) for folder in folders]
    try:
        names = [each.atlas_id for each in opened]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BuildError(f"{twice[0]} was given twice. Give each atlas once.")
        manifests = [each.manifest for each in opened]
        report = claims.judge([claims.measure(each) for each in opened])
    finally:
        for each in opened:
            each.close()
    drawn = {row.claim.name: figures.figure_of(row) for row in report.rows if figures.has_numbers(row)}
    files: dict[str, str | bytes] = {
        f"report.{kind}": page.render(f"report.{kind}.j2", report, manifests, drawn)
        for kind in ("md", "html")
    }
    for figure in drawn.values():
        files[f"{page.FIGURES}/{figure.name}.svg"] = figure.svg
        files[f"{page.FIGURES}/{figure.name}.png"] = figure.png
    _write(out, files, stale)
    return f"{out / 'report.html'}: {len(names)} atlas{'es' if len(names) > 1 else ''}, {len(drawn)} charts"


def _own_files(out: Path) -> list[str]:
    """The files of an earlier report in `out`. Raises `BuildError` where there are others."""
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out} is a file. Give --out a folder.")
    there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    own: list[str] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        own = json.loads((out / INDEX).read_text(encoding="utf-8"))["files"]
    foreign = [name for name in there if name not in own and name != INDEX]
    if foreign:
        raise BuildError(
            f"{out} holds files that do not belong to a report ({', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}). Choose an empty or new folder."
        )
    return there


def _write(out: Path, files: dict[str, str | bytes], stale: list[str]) -> None:
    """The files, in place of an earlier report's; killed at any moment, it leaves a folder known as ours."""
    names = sorted(files)
    _write_file(out / INDEX, _index(sorted({*names, *stale} - {INDEX})))
    for name in names:
        _write_file(out / name, files[name])
    for name in set(stale) - {*names, INDEX}:
        (out / name).unlink(missing_ok=True)
    _write_file(out / INDEX, _index(names))


def _index(names: list[str]) -> str:
    return json.dumps({"made_by": "python -m build figures", "files": names}, indent=1) + "\n"


def _write_file(path: Path, content: str | bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with open_output(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
