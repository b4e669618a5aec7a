"""Visitors over real WebSockets, for tests: a demo's server, and sessions that come and go.

    from tests.app.sockets import Visitor, demo_server      # the fixture, one server a module

    def test_a_page_answers(demo_server):
        with Visitor(demo_server) as visitor:
            visitor.open("fact", fact="P36:france")
            assert not visitor.errors

The client is that of the benchmarks, `build.bench.sockets`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.pages import DEMO

_sockets = pytest.importorskip("build.bench.sockets", reason="needs what requirements-dev.txt lists")
Memory, Server, Visitor, serving = _sockets.Memory, _sockets.Server, _sockets.Visitor, _sockets.serving


@pytest.fixture(scope="module")
def demo_server() -> Iterator[Server]:
    """The app of a public host, with `limits_demo.toml` and no visitor yet."""
    with serving(script="app/hosted.py", limits=DEMO) as server:
        yield server
