"""The HTML that the server sends for an address: title and description, and the app's style and script.

    App("main.py", routes=document.ROUTES)

A site that previews a link reads the HTML and runs no scripts. Streamlit sends one file for every address;
here it names what the address leads to, as the tab does once the page runs. The style is in it because what
comes with the page comes after the page's first parts, and moves them.
"""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from html import escape
from pathlib import Path

import streamlit as st
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from streamlit.file_util import get_static_dir
from streamlit.starlette import App

from app.shared import titles

_STATIC = Path(__file__).parents[1] / "static"
_HTML = (Path(get_static_dir()) / "index.html").read_text(encoding="utf-8")
_TITLE = "<title>Streamlit</title>"
_STYLE = "".join(f"<style>{each.read_text('utf-8')}</style>" for each in sorted(_STATIC.glob("*.css")))
_SCRIPT = "".join(
    f"<script>{(_STATIC / name).read_text('utf-8')}</script>" for name in ("history.js", "shortcuts.js")
)


def head(title: str, about: str) -> str:
    """The elements that browsers, search engines and previews read."""
    title, about = escape(title), escape(about)
    return (
        f'<title>{title}</title><meta name="description" content="{about}" />'
        f'<meta property="og:title" content="{title}" /><meta property="og:description" content="{about}" />'
        '<meta property="og:site_name" content="Knowledge Neuron Atlas" />'
    )


async def serve(request: Request, page: str) -> HTMLResponse:
    described = await run_in_threadpool(titles.describe, page, dict(request.query_params))
    html = _HTML.replace(_TITLE, head(*described) + _STYLE + _SCRIPT)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache"})


ROUTES = [Route(f"/{page}", partial(serve, page=page)) for page in titles.PAGES]


@asynccontextmanager
async def in_a_browser(app: App) -> AsyncIterator[None]:
    """Open the app in the browser of who starts it, as Streamlit does only for a script."""
    if not st.get_option("server.headless"):
        address = f"http://localhost:{st.get_option('server.port')}"
        asyncio.get_running_loop().call_later(1, webbrowser.open, address)
    yield
