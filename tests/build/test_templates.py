"""`python -m build templates`: what a model makes of each template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

import pytest

from atlas.datasets import load_dataset
from atlas.datasets.starter import STARTER_FACTS
from atlas.neuron import Template
from build.__main__ import main
from build.templates import MeasuredTemplate, describe_templates

PATTERNS = ["[Y] is what [X] has.", "The capital of [X] is [Y].", "In [X], it is [Y]."]
TEMPLATE = Template("P36.0", "P36", PATTERNS[1])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder in the starter facts' form with one relation."""
    (tmp_path / "facts").mkdir()
    facts = (STARTER_FACTS / "facts" / "P36.csv").read_text(encoding="utf-8")
    (tmp_path / "facts" / "P36.csv").write_text(facts, encoding="utf-8")
    relations = [{"relation_id": "P36", "label": "capital", "templates": PATTERNS}]
    (tmp_path / "relations.json").write_text(json.dumps(relations), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("name", "patterns"), [("tiny_bert", PATTERNS), ("tiny_llama", PATTERNS[1:])])
def test_each_usable_template_has_its_share_and_its_medians(name, patterns, tiny, source, capsys):
    pytest.importorskip("torch")
    from atlas.surgery import load_subject

    folder = str(tiny(name))
    asked = ["--model", folder, "--dataset", "starter", "--source", str(source), "--limit", "9"]
    assert main(["templates", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(patterns) + 3
    subject, facts = load_subject(folder, device="cpu"), load_dataset("starter", source=source).facts[:9]
    medians, printed = [], []
    for pattern, line in zip(patterns, lines[1:], strict=False):
        assert line.startswith(f"P36       {pattern}  ")
        share, *numbers = re.findall(r"[\d.]+%?", line.removeprefix(f"P36       {pattern}"))
        predictions = [subject.predict([Template("t", "P36", pattern).prompt(f)])[0] for f in facts]
        assert share == f"{sum(p.rank == 1 for p in predictions) / 9:.1%}"
        medians.append(median(p.probability for p in predictions))
        printed.append([float(number) for number in numbers])
    assert printed == [
        [pytest.approx(own, abs=1e-4), pytest.approx(median(medians), abs=1e-4)] for own in medians
    ]


def test_a_template_under_a_fifth_of_its_relations_median_is_marked():
    low, high = (MeasuredTemplate(TEMPLATE, 9, 0.5, own, 0.5) for own in (0.0999, 0.1))
    assert low.is_low
    assert not high.is_low
    text = describe_templates([low, high])
    assert text.count("0.5000  under a fifth\n") == 1
    assert text.endswith("\n1 of 2 templates are under a fifth of their relation's median")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--relations", "P999999"], "has no relation P999999"),
        (["--source", "no-such-folder"], "There is no folder or file no-such-folder"),
        (["--limit", "0"], "--limit must be 1 or more, got 0."),
        (["--model", "./no/such/folder"], "is neither a folder nor a model's name"),
    ],
)
def test_a_bad_option_is_one_sentence(options, sentence, refused):
    assert sentence in refused("templates", "--model", "pocket-bert", "--dataset", "starter", *options)
