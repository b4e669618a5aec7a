"""Links in a real browser: address, heading, title, reload, Back and scroll position follow each of them."""

from __future__ import annotations

import re
import urllib.request
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import pytest

from app.shared.titles import PAGES, describe
from tests.app import test_browser
from tests.app.test_browser import ATLAS, PATIENCE, expect, follow, settled

# The server that also writes titles into the HTML; its pages are those of `app/main.py`.
ENTRY = "app/hosted.py"
pytestmark = test_browser.pytestmark
site, browser, visit = test_browser.site, test_browser.browser, test_browser.visit

OTHER_ATLAS = "starter-smollm2-135m"
LINKS = '[data-testid="stMain"] [data-testid="stPageLink-NavLink"]'
TOP = "() => document.querySelector('[data-testid=stMain]').scrollTop"
# Two states of every page that has links.
STATES = {
    "home": ("", f"?atlas={OTHER_ATLAS}"),
    "search": ("search?q=paris", "search?q=capital&relation=P36&known=known&sort=subject&page=2"),
    "fact": ("fact?fact=P36%3Afrance", "fact?fact=P36%3Agermany&t=0.5&view=prompts&neuron=L2.N23"),
    "no fact": ("fact", f"fact?atlas={OTHER_ATLAS}"),
    "relation": ("relation?relation=P36", "relation?relation=P30&other=P36&layer=1"),
    "relations": ("relation", "relation?a=P36&b=P17"),
    "neuron": ("neuron?neuron=L2.N23", "neuron?neuron=L2.N1426&sort=subject&related=shared"),
    "neurons": ("neuron", f"neuron?atlas={OTHER_ATLAS}"),
    "lab": ("lab", "lab?fact=P36%3Afrance"),
    "facts": ("compare?kind=facts&a=P36%3Afrance&b=P36%3Agermany", "compare?kind=facts&a=P36%3Afrance"),
    "pairs of relations": ("compare?kind=relations&a=P36&b=P30&least=0.25", "compare?kind=relations"),
    "pairs of neurons": ("compare?kind=neurons&a=L2.N23&b=L2.N1426", "compare?kind=neurons&b=L2.N23"),
    "two atlases": (f"compare?kind=atlases&a=P36%3Afrance&other={OTHER_ATLAS}", "compare?kind=atlases"),
    "evidence": ("evidence", "evidence?claim=suppress"),
    "sql": ("sql", "sql?sql=FROM+facts+LIMIT+3"),
    "atlases": ("atlases", f"atlases?atlas={OTHER_ATLAS}"),
}


def described(url: str) -> tuple[str, str]:
    """The heading of the page that an address leads to, and its tab's title."""
    parts = urlsplit(url)
    name = parts.path.strip("/")
    title, _ = describe(name, dict(parse_qsl(parts.query)))
    # A neuron's heading leaves its code to the line below.
    heading = re.sub(r" \(L\d+\.N\d+\)$", "", title.rpartition(" · ")[0])
    return PAGES[name][0] if name in ("", "lab", "compare", "search") else heading, title


def arrive(page, url: str) -> None:
    """Wait until address, heading and title are those of `url`; the Lab adds its experiment to the URL."""
    heading, title = described(url)
    address = re.compile(re.escape(url) + ("(&(x|model)=.*)?$" if "/lab?" in url else "$"))
    expect(page).to_have_url(address, timeout=PATIENCE)
    expect(page.locator("h1").first).to_have_text(heading, timeout=PATIENCE)
    expect(page).to_have_title(title, timeout=PATIENCE)
    settled(page)


def kinds_of_links(page) -> dict[tuple[str, ...], list[str]]:
    """The links of a page, by the page and the parameters that they name."""
    page.locator(LINKS).first.wait_for()
    kinds: dict[tuple[str, ...], list[str]] = {}
    for href in page.locator(LINKS).evaluate_all("links => links.map(link => link.getAttribute('href'))"):
        parts = urlsplit(href)
        kinds.setdefault((parts.path, *dict(parse_qsl(parts.query))), []).append(href)
    return kinds


def link_to(page, href: str):
    return page.locator(f'{LINKS}[href="{href}"]:visible').last


@pytest.mark.parametrize("states", STATES.values(), ids=STATES)
def test_every_kind_of_link_brings_its_address_and_back_returns(visit, site, states):
    """All links name something that there is; of each kind (target and parameters) one is clicked."""
    for state in states:
        page = visit(state)
        here, is_first = page.url, state == states[0]
        for (target, *names), hrefs in kinds_of_links(page).items():
            if target in ("fact", "relation", "neuron") and target in names:
                assert all(described(href)[0] != PAGES[target][0] for href in hrefs)
            href = next((href for href in reversed(hrefs) if link_to(page, href).count()), None)
            # The footer's link is clicked in one state.
            if href is None or f"{site}/{href}" == here or (target == "atlases" and not is_first):
                continue
            link_to(page, href).click()
            arrive(page, f"{site}/{href}")
            assert page.evaluate(TOP) == 0
            page.go_back()
            arrive(page, here)
        page.context.close()


def test_the_menu_leads_to_every_page_and_keeps_the_atlas(visit, site):
    page = visit(f"fact?fact=P36%3Afrance&atlas={OTHER_ATLAS}")
    here = page.url
    for name, (title, _) in PAGES.items():
        page.get_by_test_id("stSidebar").locator(f'a[href^="{name}?"]').click()
        expect(page).to_have_title(re.compile(rf"^{title}.* · SmolLM2-135M$"), timeout=PATIENCE)
        expect(page).to_have_url(re.compile(rf"/{name}\?atlas={OTHER_ATLAS}"))
        settled(page)
    for _ in PAGES:
        page.go_back()
        settled(page)
    arrive(page, here)


def test_a_link_to_the_same_page_survives_reload_back_and_forward(visit, site):
    page = visit("fact?fact=P36%3Afrance")
    here = page.url
    follow(page, "The facts that share its neurons")  # scrolls down first
    expect(page).not_to_have_url(here, timeout=PATIENCE)
    settled(page)
    there = page.url
    assert there.startswith(f"{site}/fact?")
    assert page.evaluate(TOP) == 0
    page.mouse.move(600, 400)
    page.mouse.wheel(0, 700)
    page.wait_for_function("() => history.state.top > 0")
    below = page.evaluate("() => history.state.top")
    page.go_back()
    arrive(page, here)
    left_at = page.evaluate("() => history.state.top")
    assert left_at > 1000
    page.wait_for_function(f"() => Math.abs(({TOP})() - {left_at}) < 100")
    for go in (page.go_forward, page.reload):
        go()
        arrive(page, there)
        page.wait_for_function(f"() => Math.abs(({TOP})() - {below}) < 100")


@pytest.mark.parametrize("path", ["sql", "compare?kind=prompts"])
def test_a_link_that_is_clicked_from_a_text_field_is_followed(visit, site, path):
    page = visit(path)
    field = ".cm-content" if path == "sql" else "[data-testid=stMain] textarea:visible"
    box = page.locator(field).first
    box.fill("SELECT 43 AS x")
    page.locator('[data-testid=stSidebar] a[href^="search"]').first.click()
    expect(page.locator("h1").first).to_have_text("Search", timeout=PATIENCE)
    expect(page).to_have_url(re.compile("/search"), timeout=PATIENCE)
    settled(page)
    page.go_back()
    expect(page.locator("h1").first).not_to_have_text("Search", timeout=PATIENCE)


def test_with_control_a_link_opens_a_tab_and_the_page_stays(visit, site):
    page = visit("neuron?neuron=L2.N23")
    here, href = page.url, kinds_of_links(page)["neuron", "atlas", "neuron"][0]
    with page.context.expect_page() as opened:
        link_to(page, href).click(modifiers=["ControlOrMeta"])
    opened.value.set_default_timeout(PATIENCE)
    arrive(opened.value, f"{site}/{href}")
    arrive(page, here)


@pytest.mark.parametrize(
    ("path", "do"),
    [
        ("", lambda page: page.get_by_role("button", name="Random fact").click()),
        ("", lambda page: page.get_by_role("button", name="Do it live").click()),
        (
            "",
            lambda page: page.get_by_label("Search facts and neurons of all atlases").press_sequentially(
                "paris\n"
            ),
        ),
        ("neuron", lambda page: page.get_by_label("A neuron, or a word").press_sequentially("L2.N23\n")),
        ("compare?kind=facts&a=P36%3Afrance", lambda page: page.get_by_text("Two neurons").click()),
        ("fact?fact=P36%3Afrance&t=0.5&p=0.3", lambda page: page.get_by_text("Back to the atlas's").click()),
    ],
    ids=["random", "lab", "search", "name", "kind", "thresholds"],
)
def test_one_step_back_undoes_one_deed(visit, path, do):
    """Also where several parameters change, or a page writes into its own address."""
    page = visit(path)
    here = page.url
    do(page)
    expect(page).not_to_have_url(here, timeout=PATIENCE)
    page.wait_for_timeout(500)
    settled(page)
    page.go_back()
    arrive(page, here)


SHIFTS = """() => new Promise(done => new PerformanceObserver(list => done(
    list.getEntries().reduce((sum, each) => sum + each.value, 0)
)).observe({type: 'layout-shift', buffered: true}) ?? setTimeout(() => done(0), 1000))"""


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("path", ["", "search?q=paris"])
def test_a_page_keeps_still_while_it_loads(site, browser, path, width):
    """The sum of all shifts, which Chromium reports as parts of the window times parts of its height."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{site}/{path}{'&' if '?' in path else '?'}atlas={ATLAS}")
    page.get_by_role("link", name="Whole manifest").wait_for()  # the end of every page
    settled(page)
    page.wait_for_timeout(2_000)  # charts are drawn
    assert page.evaluate(SHIFTS) <= 0.1
    context.close()


@pytest.mark.parametrize(
    ("path", "title", "about"),
    [
        (
            "",
            "Knowledge Neuron Atlas · pocket-bert",
            "Which neurons of a language model an answer depends on",
        ),
        (
            "fact?fact=P36:france&atlas=starter-smollm2-135m",
            "France → Paris · SmolLM2-135M",
            "capital · known",
        ),
        ("relation?relation=P36", "capital (P36) · pocket-bert", "148 facts"),
        ("search?q=%22%3E%3Cscript%3E", 'Search: "><script> · pocket-bert', "Facts and neurons"),
        ("fact?fact=P36:nowhere", "Fact · pocket-bert", "What the model says"),
        ("compare?kind=neurons&a=x&b=L2.N23", "Compare · pocket-bert", "What two facts"),
        ("compare?kind=relations&a=P36&b=P0", "Compare · pocket-bert", "What two facts"),
        ("fact?atlas=nowhere", "Fact", "What the model says"),
    ],
)
def test_the_html_names_what_an_address_leads_to(site, path, title, about):
    with urllib.request.urlopen(f"{site}/{path}") as response:
        html = response.read().decode()
    (named,) = re.findall("<title>(.*?)</title>", html)
    (said,) = re.findall('<meta name="description" content="(.*?)"', html)
    assert unescape(named) == title
    assert unescape(said).startswith(about)
    assert "<script>" not in named
