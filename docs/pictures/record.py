"""The pictures of the documentation, taken of the running app; one command renews all of them.

    pip install -r requirements-dev.txt          # and a Chromium: Debian's package `chromium`
    python -m docs.pictures.record

`lab.gif` is a sentence that is typed, the words that the model would say, and what it says once its neurons
are switched off. `STILLS` lists the pages that stand still, each with its height in pixels.
"""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from build.bench.sockets import serving

HERE = Path(__file__).parent
ATLAS = "starter-pocket-bert"
STILLS = {
    "fact.png": (f"fact?atlas={ATLAS}&fact=P36%3Aazerbaijan", 1300),
    "lab.png": (f"lab?atlas={ATLAS}&fact=P36%3Aazerbaijan&run=1", 1500),
    "relations.png": ("relation?atlas=starter-smollm2-135m", 1700),
}
WIDTH, HEIGHT = 1200, 760  # pixels, of the animation
SENTENCE = "The capital of France is"
COLOURS = 128
PATIENCE = 120_000  # milliseconds


def main() -> None:
    with serving() as server, sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE)
        for name, (path, height) in STILLS.items():
            page.set_viewport_size({"width": WIDTH, "height": height})
            page.goto(f"{server.address}/{path}")
            still(page)
            page.screenshot(path=HERE / name)
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.goto(f"{server.address}/lab?atlas={ATLAS}")
        still(page)
        save(record(page), HERE / "lab.gif")
        browser.close()


def record(page: Page) -> list[tuple[Image.Image, int]]:
    """The frames of the Lab's story, each with the milliseconds that it stays."""
    frames = [(frame(page), 800)]
    box = page.get_by_role("textbox", name=re.compile("^A sentence"))
    for end in range(3, len(SENTENCE) + 3, 3):
        box.fill(SENTENCE[:end])
        frames.append((frame(page), 120))
    box.press("Enter")
    forget = page.get_by_role("button", name="Forget")
    forget.wait_for()
    still(page)
    frames.append((frame(page), 2_500))
    forget.hover()
    frames.append((frame(page), 700))
    forget.click()
    page.get_by_text("Exact undo").wait_for()
    still(page)
    frames.append((frame(page), 1_000))
    flipped = page.get_by_role("heading", name="→", level=2)
    flipped.evaluate("heading => heading.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(500)
    frames.append((frame(page), 4_000))
    return frames


def still(page: Page) -> None:
    """Wait until the page has run to its end, its charts are drawn, and nothing fades any more."""
    page.get_by_role("link", name="Whole manifest").wait_for()
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_timeout(2_500)


def frame(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(frames: list[tuple[Image.Image, int]], file: Path) -> None:
    """An animation without end, in the colours of its last picture."""
    images, durations = zip(*frames, strict=True)
    palette = images[-1].quantize(COLOURS)
    first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    first.save(file, save_all=True, append_images=others, duration=list(durations), loop=0, optimize=True)


if __name__ == "__main__":
    main()
