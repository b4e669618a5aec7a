"""Clicking a chart's mark in a page that `AppTest` drives: what the browser would send.

    click_mark(app, "Hits by relation", relation_id="P36")        # the page has run again, as after a click

Streamlit's own test driver knows charts only as elements it cannot touch.
"""

from __future__ import annotations

import json
from typing import Any

from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from atlas.charts.look import CLICK


def chart(app: AppTest, alternative: str) -> Any:
    """The one chart on the page that screen readers call so."""
    found = [element.proto for element in app.get("vega_lite_chart") if element.proto.alt == alternative]
    assert len(found) == 1, [element.proto.alt for element in app.get("vega_lite_chart")]
    return found[0]


def click_mark(app: AppTest, alternative: str, **fields: Any) -> AppTest:
    return send_selection(app, alternative, {CLICK: [fields]})


def send_selection(app: AppTest, alternative: str, selection: Any) -> AppTest:
    """Anything that a browser might send as what was clicked."""
    states = app._tree.get_widget_states()
    states.widgets.append(
        WidgetState(id=chart(app, alternative).id, string_value=json.dumps({"selection": selection}))
    )
    return app._run(states)
