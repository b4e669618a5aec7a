"""On a desktop, a tablet and a phone: no button's text is cut, and tables lead with what tells rows apart."""

from __future__ import annotations

import pytest

from tests.app.test_browser import ATLAS, CHROMIUM, PAGES, PATIENCE, browser, settled, site  # noqa: F401

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="No Chromium: install Debian's package `chromium`.")
CUT = """() => [...document.querySelectorAll('.stMain button .stMarkdownEllipsis')]
    .filter(text => text.scrollWidth > text.clientWidth + 1).map(text => text.innerText)"""


@pytest.fixture(scope="module", autouse=True)
def no_model_is_cached(tmp_path_factory: pytest.TempPathFactory):
    """The server finds no fetched model: the Lab offers to fetch it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_no_button_s_text_is_cut(width, site, browser):  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    for path in (*PAGES, "compare?kind=prompts", "lab?model=smollm2-135m"):
        page.goto(f"{site}/{path}{'&' if '?' in path else '?'}atlas={ATLAS}")
        page.get_by_role("link", name="Whole manifest").wait_for()  # the end of every page
        settled(page)
        assert page.evaluate(CUT) == [], path
    assert page.get_by_role("button", name="Fetch smollm2-135m (93 MB, 542 MB on disk)").is_visible()
    context.close()
