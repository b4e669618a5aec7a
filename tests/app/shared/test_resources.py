"""What is kept between runs of a page: the opened atlas, and what Python's collector need not visit again."""

from __future__ import annotations

import gc
import os

import pytest

from app.shared import resources
from tests.app.pages import page


@pytest.fixture
def sample(another_atlas):
    folder = another_atlas()
    return folder


def test_an_atlas_is_opened_once_and_again_when_it_is_rebuilt(sample):
    first = resources.opened(sample)
    assert resources.opened(sample) is first
    loaded = first.query("SELECT table_name FROM duckdb_tables() WHERE database_name = 'loaded'")
    assert set(loaded["table_name"]) == {
        *("facts", "knowledge_neurons", "neurons", "templates", "prompts"),
        *("effect_summaries", "specificity", "edits", "erasures", "contexts", "stability", "subsets"),
    }
    manifest = sample / "manifest.json"
    os.utime(manifest, ns=(1, 1))
    assert resources.opened(sample) is not first


def test_a_question_is_asked_once_until_the_atlas_is_rebuilt(sample):
    asked = []

    def question(atlas, *arguments, **options):
        asked.append((arguments, options))
        return len(asked)

    a = resources.opened(sample)
    assert [resources.ask(question, a, "P36", known=True) for _ in range(3)] == [1, 1, 1]
    assert resources.ask(question, a, "P30", known=True) == 2
    os.utime(sample / "manifest.json", ns=(2, 2))
    assert resources.ask(question, resources.opened(sample), "P36", known=True) == 3


def test_the_collector_passes_over_the_modules_of_a_page(sample):
    before = gc.get_freeze_count()
    resources._n_modules = 0
    app = page("fact", fact="P36-00001")
    kept = gc.get_freeze_count()
    assert kept > max(before, 50_000)
    app.run()
    # No page loaded anything new, so nothing that can be collected is kept from it.
    assert gc.get_freeze_count() <= kept
