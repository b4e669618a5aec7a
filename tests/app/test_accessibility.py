"""On no page axe finds what keeps people from reading or using it: light and dark, wide and narrow.

axe-core checks the rules of WCAG; the package axe-playwright-python brings it.
"""

from __future__ import annotations

import re

import pytest

from tests.app.test_browser import ATLAS, CHROMIUM, PATIENCE, browser, settled, site  # noqa: F401

Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed.").Axe

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="No Chromium: install Debian's package `chromium`.")
PAGES = {
    "home": "",
    "search": "search?q=paris",
    "fact": "fact?fact=P36%3Afrance",
    "neuron": "neuron?neuron=L2.N1608",
    "relation": "relation?relation=P36",
    "lab": "lab",
    "compare": "compare?kind=facts&a=P36%3Afrance&b=P36%3Agermany",
    "planted": "planted",
    "evidence": "evidence",
    "sql": "sql",
    "atlases": "atlases",
}
# Streamlit follows the system's colours while a page is open.
LOOKS = [("light", 1280), ("dark", 1280), ("dark", 390)]
DRAWN = """() => [...document.querySelectorAll('[data-testid="stVegaLiteChart"]')]
    .every(chart => !chart.checkVisibility() || chart.querySelector('svg, canvas'))"""


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_serious_fault(name, site, browser):  # noqa: F811
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{site}/{PAGES[name]}{'&' if '?' in PAGES[name] else '?'}atlas={ATLAS}")
    page.get_by_role("link", name="Whole manifest").wait_for()
    settled(page)
    if name == "lab":
        forget(page)
    page.wait_for_function(DRAWN)
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(1_500)  # what fades in is pale meanwhile
        assert faults(page) == [], (scheme, width)
    context.close()


def test_axe_sees_a_button_without_a_name_and_a_pale_text(site, browser):  # noqa: F811
    page = browser.new_page()
    page.set_content('<html lang="en"><title>Two</title><button></button><p style="color: #bbb">Pale</p>')
    assert [fault.split(":")[0] for fault in faults(page)] == ["button-name", "color-contrast"]
    page.close()


def forget(page) -> None:
    """Type a sentence into the Lab, and have the model forget the answer."""
    page.get_by_role("textbox", name=re.compile("^A sentence")).fill("The capital of France is")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("heading", name="→").first.wait_for()
    page.get_by_text("Exact undo").wait_for()
    settled(page)


def faults(page) -> list[str]:
    """What axe calls serious or critical: the rule, the element, what is wrong."""
    return [
        f"{found['id']}: {node['html']} {node['failureSummary']}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
