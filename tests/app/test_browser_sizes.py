"""On a desktop, a tablet and a phone: no button's text is cut, and pages do not move while they are drawn."""

from __future__ import annotations

import pytest

from tests.app.test_browser import ATLAS, CHROMIUM, PAGES, PATIENCE, browser, settled, site  # noqa: F401

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="No Chromium: install Debian's package `chromium`.")
CUT = """() => [...document.querySelectorAll('.stMain button .stMarkdownEllipsis')]
    .filter(text => text.scrollWidth > text.clientWidth + 1).map(text => text.innerText)"""

# The worst second or so of unexpected moves, as https://web.dev/cls sums them up.
SHIFT = """(() => {
    let first = 0, last = 0, sum = 0;
    window.layoutShift = 0;
    new PerformanceObserver((list) => {
        for (const { startTime, value, hadRecentInput } of list.getEntries()) {
            if (hadRecentInput) continue;
            if (startTime - last > 1000 || startTime - first > 5000) { first = startTime; sum = 0; }
            last = startTime;
            sum += value;
            window.layoutShift = Math.max(window.layoutShift, sum);
        }
    }).observe({ type: "layout-shift", buffered: true });
})()"""


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


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("path", [*PAGES, "search?q=paris"])
def test_a_page_hardly_moves_while_it_is_drawn(path, width, site, browser):  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script(SHIFT)
    page.goto(f"{site}/{path}{'&' if '?' in path else '?'}atlas={ATLAS}")
    page.get_by_role("link", name="Whole manifest").wait_for()
    settled(page)
    page.wait_for_timeout(1_500)
    assert page.evaluate("window.layoutShift") <= 0.1
    context.close()
