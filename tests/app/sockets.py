"""Visitors over real WebSockets, for tests: the client of the benchmarks, `build.bench.sockets`.

with serving(limits=DEMO) as server, Visitor(server) as visitor:
    visitor.open("fact", fact="P36:france")
    assert not visitor.errors
"""

from __future__ import annotations

import pytest

_sockets = pytest.importorskip("build.bench.sockets", reason="needs what requirements-dev.txt lists")
Server, Visitor, serving = _sockets.Server, _sockets.Visitor, _sockets.serving
