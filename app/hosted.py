"""The app for a host: bounded connections (`app.shared.connections`).

streamlit run app/hosted.py         # or, as the Dockerfile does: uvicorn app.hosted:app --ws-max-size=…
"""

import sys
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from app.shared import document, visitors  # noqa: E402
from app.shared.connections import BoundedConnections  # noqa: E402

# Before threads have heaps of their own.
visitors.spend_memory_sparingly()

app = App(
    Path(__file__).parent / "main.py", routes=document.ROUTES, middleware=[Middleware(BoundedConnections)]
)
