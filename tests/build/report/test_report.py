"""The report says what the claims say, of every atlas, whatever it lacks; its files need no others.

That the numbers are those of the tables: tests/atlas/claims.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atlas import claims
from atlas.charts import look
from atlas.claims import CLAIMS, Verdict
from atlas.store.atlas import DATA, Atlas
from atlas.store.manifest import read_manifest, write_manifest
from atlas.store.schema import REQUIRED_TABLES, TABLES, empty_table
from build.__main__ import main
from build.evidence.evaluate import RECORD
from build.report.figures import figure_of, has_numbers
from build.report.page import escape_marks, render
from tests import ROOT
from tests.sample_atlas import replace_table, write_sample_atlas

OPTIONAL = sorted(set(TABLES) - set(REQUIRED_TABLES))
BUNDLED = ("pararel-bert-base-uncased", "starter-pocket-bert", "starter-smollm2-135m")
DOCS = ROOT / "docs" / "evidence"
CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample", n_facts=80)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas as it is imported: neurons and nothing else."""
    folder = tmp_path_factory.mktemp("atlases") / "bare"
    return write_sample_atlas(folder, n_facts=24, atlas_id="bare", leave_out=OPTIONAL)


@pytest.fixture(scope="module")
def written(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(tmp_path_factory.mktemp("reports") / "report", sample)


def report_of(out: Path, *folders: Path) -> Path:
    assert main(["figures", *map(str, folders), "--out", str(out)]) == 0
    return out


def markdown(out: Path) -> str:
    return (out / "report.md").read_text(encoding="utf-8")


def text_of(*folders: Path, template: str = "report.md.j2") -> str:
    """The report, its figures not drawn."""
    atlases = [Atlas(folder) for folder in folders]
    report = claims.judge([claims.measure(each) for each in atlases])
    drawn = {row.claim.name: figure_of(row) for row in report.rows if has_numbers(row)}
    drawn = drawn if template == "report.md.j2" else {}
    text = render(template, report, [each.manifest for each in atlases], drawn)
    for each in atlases:
        each.close()
    return text


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


# What it says ----------------------------------------------------------------------------------------


def test_every_number_and_verdict_is_in_both_documents(sample, written):
    with Atlas(sample) as atlas:
        report = claims.judge([claims.measure(atlas)])
    html = (written / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    for text in (markdown(written), html):
        for row in report.rows:
            (cell,) = row.cells
            for part in (row.claim.says, row.claim.paper, row.claim.bound, row.claim.source, cell.verdict):
                assert part in text
            numbers = [each.text() for _, _, each in cell.reading.beside]
            if cell.reading.estimate is not None:
                numbers.append(cell.reading.estimate.text())
            assert all(number in text for number in numbers)
            assert cell.reading.note in text


def test_the_summary_says_first_what_speaks_against_and_by_which_rule(written, sample):
    text = markdown(written)
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[:2] == ["What speaks against the thesis", "What holds"]
    assert claims.AGAINST_FIRST in text
    with Atlas(sample) as atlas:
        against = claims.judge([claims.measure(atlas)]).against
    section = text.split("## What speaks against")[1].split("\n## ")[0]
    assert re.findall(r"^\d+\. \*\*(.*?)\*\*", section, re.MULTILINE) == [row.claim.says for row in against]


def test_an_atlas_of_few_tables_is_reported_without_nan(bare, tmp_path):
    out = report_of(tmp_path / "report", bare)
    for text in (
        markdown(out),
        re.sub(r"<svg.*?</svg>", "", (out / "report.html").read_text(encoding="utf-8")),
    ):
        assert not re.search(r"\b(nan|inf|None|undefined)\b", text)
        assert text.count(Verdict.NOT_MEASURED) >= len(CLAIMS) - 1
    assert {path.stem for path in out.glob("figures/*.svg")} == {"own"}


def test_an_atlas_without_any_neuron_is_reported(bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "empty")
    replace_table(folder, "knowledge_neurons", empty_table("knowledge_neurons"))
    out = report_of(tmp_path / "report", folder)
    assert "Nothing that was measured here." in markdown(out)
    assert not (out / "figures").exists()


def test_several_atlases_are_columns_of_one_report(sample, bare):
    text = text_of(sample, bare)
    assert "| claim | the paper | sample-model (sample) | sample-model (bare) |" in text
    row = next(line for line in text.splitlines() if line.startswith("| [Rewriting"))
    *_, of_sample, of_bare = (cell.strip() for cell in row.strip("|").split("|"))
    assert "n = 40 edits" in of_sample
    assert of_bare == f"**{Verdict.NOT_MEASURED}**"


def test_it_says_how_to_make_an_atlas_again(sample, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "built")
    manifest = read_manifest(folder)
    parameters = {"model": "pocket-bert", "dataset": "starter", "limit": 10, "discovery": "half"}
    record = {"update": {"sample": 5, "seed": 3, "seconds": 61.0, "code_version": "0.1.0"}}
    manifest.method.options.update({"parameters": parameters, RECORD: record})
    write_manifest(folder, manifest)
    text = text_of(folder)
    assert "python -m build run --model pocket-bert --dataset starter --limit 10 --out DIR" in text
    assert "python -m build evaluate DIR --experiments update --sample 5 --seed 3" in text


def test_the_committed_report_is_that_of_the_bundled_atlases():
    text = text_of(*(DATA / name for name in BUNDLED))
    assert markdown(DOCS) == text
    shown = set(re.findall(r"\(figures/(.*?)\)", text))
    assert {path.name for path in (DOCS / "figures").iterdir()} == shown


# The files -------------------------------------------------------------------------------------------


def test_every_claim_is_drawn_twice(written):
    for ending in ("svg", "png"):
        assert {path.stem for path in written.glob(f"figures/*.{ending}")} == {claim.name for claim in CLAIMS}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.glob("figures/*.png"))


def test_the_same_atlas_gives_the_same_bytes(written, sample, tmp_path):
    assert contents(report_of(tmp_path / "again", sample)) == contents(written)


def test_the_page_needs_no_other_file_and_its_links_lead_somewhere(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg") == len(CLAIMS)
    assert not re.search(r"<(img|script|link|iframe)\b|@import|url\(\s*[\"']?(?!#)", text)
    # Ids of several figures in one page are apart, and what refers to them finds them.
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)) <= {
        (a, b) for a in ("", *ids) for b in ("", *ids)
    }
    for name in ("report.html", "report.md"):
        linked = set(
            re.findall(r'(?:href="|\]\()(figures/[^")]+)', (written / name).read_text(encoding="utf-8"))
        )
        assert len(linked) >= len(CLAIMS)
        assert all((written / target).is_file() for target in linked)


def test_figures_in_the_page_take_the_colour_of_its_text(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert look.INK not in text.split("</style>")[1]
    assert "currentColor" in text
    alone = (written / "figures" / "suppress.svg").read_text(encoding="utf-8")
    assert look.INK in alone
    assert f'fill="{look.WHITE}"' in alone


def test_words_of_an_atlas_are_words_in_the_report(sample, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "odd")
    manifest = read_manifest(folder)
    name = "a|b *c* <script>d</script>"
    write_manifest(folder, replace(manifest, dataset=replace(manifest.dataset, id=name)))
    assert "a|b *c* &lt;script&gt;d&lt;/script&gt;" in text_of(folder, template="report.html.j2")
    assert f"| {escape_marks(name)} |" in text_of(folder)


@pytest.mark.skipif(CHROMIUM is None, reason="No Chromium: install Debian's package `chromium`.")
def test_a_phone_shows_the_report_offline(written):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
        shown = context.new_page()
        shown.goto((written / "report.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        assert shown.locator("figure svg").first.bounding_box()["width"] > 300
        browser.close()


# The folder, and what is wrong -----------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(sample, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert main(["figures", str(sample), "--out", str(out)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    # An atlas is such a folder, too.
    assert main(["figures", str(sample), "--out", str(sample)]) == 2


def test_an_earlier_report_is_replaced(written, bare, tmp_path):
    out = shutil.copytree(written, tmp_path / "report")
    (out / "report.md").write_text("old")
    report_of(out, bare)
    assert markdown(out).startswith("# ")
    assert {path.stem for path in out.glob("figures/*.png")} == {"own"}
    (out / "figures" / "note.txt").write_text("mine")
    assert main(["figures", str(bare), "--out", str(out)]) == 2
    assert (out / "figures" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["absent", "no atlas", "twice", "out is a file"])
def test_bad_input_gets_a_sentence(what, sample, tmp_path, refused):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    arguments, said = {
        "absent": ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")], "There is no folder"),
        "no atlas": ([str(tmp_path / "folder"), "--out", str(tmp_path / "out")], "not a finished atlas"),
        "twice": ([str(sample), str(sample), "--out", str(tmp_path / "out")], "was given twice"),
        "out is a file": ([str(sample), "--out", str(tmp_path / "file")], "is a file"),
    }[what]
    assert said in refused("figures", *arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_package_that_draws_there_is_one_sentence(sample, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # how Python marks what cannot be imported
    assert "requirements-dev.txt" in refused("figures", sample, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_model_is_loaded_for_a_report(sample):
    code = (
        "import sys; from pathlib import Path; from atlas import claims; "
        "from atlas.store.atlas import Atlas; "
        "import build.report.page; claims.judge([claims.measure(Atlas(Path(sys.argv[1])))]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(sample)], cwd=ROOT, check=True)
