"""The app for a host: bounded connections (`app.shared.connections`), and links with previews.

    streamlit run app/hosted.py         # or, as the Dockerfile does: uvicorn app.hosted:app --ws-max-size=…

A site that previews a link reads the HTML which the server sends, and runs no scripts. Streamlit sends one
file for every address; here it names what the address leads to, as the tab does once the page runs. It also
has the pages' style from the start: what comes with the page comes too late, and moves what is there.
"""

import sys
from functools import partial
from html import escape
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from streamlit.file_util import get_static_dir
from streamlit.starlette import App

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from app.shared import layout, titles, visitors  # noqa: E402
from app.shared.connections import BoundedConnections  # noqa: E402

# Before threads have heaps of their own.
visitors.spend_memory_sparingly()

_HTML = (Path(get_static_dir()) / "index.html").read_text(encoding="utf-8")
_TITLE = "<title>Streamlit</title>"


def head(title: str, about: str) -> str:
    """The elements that browsers, search engines and previews read."""
    title, about = escape(title), escape(about)
    return (
        f'<title>{title}</title><meta name="description" content="{about}" />'
        f'<meta property="og:title" content="{title}" /><meta property="og:description" content="{about}" />'
        f'<meta property="og:site_name" content="Knowledge Neuron Atlas" />{layout.PAGE_STYLE}'
    )


async def serve(request: Request, page: str) -> HTMLResponse:
    described = await run_in_threadpool(titles.describe, page, dict(request.query_params))
    return HTMLResponse(_HTML.replace(_TITLE, head(*described)), headers={"Cache-Control": "no-cache"})


app = App(
    Path(__file__).parent / "main.py",
    routes=[Route(f"/{page}", partial(serve, page=page)) for page in titles.PAGES],
    middleware=[Middleware(BoundedConnections)],
)
