"""Downloads from a hub: a local server that speaks its protocol, and a process that is told its address."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("huggingface_hub")

SHA = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": bytes(30_000_000), "onnx/model.safetensors": bytes(10)}
DOWNLOAD = """
import json
from atlas.errors import ModelError
from atlas.models.hub import download
seen = []
try:
    folder = str(download("someone/bert", lambda fraction, message: seen.append((fraction, message))))
except ModelError as error:
    folder = str(error)
print(json.dumps([folder, seen]))
"""


class Hub(BaseHTTPRequestHandler):
    """One model, `FILES`; `breaks_off` says after how many bytes a file's connection ends."""

    breaks_off: int | None = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        sizes = [(name, len(content)) for name, content in FILES.items()]
        if "/tree/" in self.path:
            self.send_json([{"type": "file", "path": n, "size": size, "oid": n} for n, size in sizes])
        elif "/resolve/" in self.path:
            name = self.path.split(f"/resolve/{SHA}/")[1]
            etag = hashlib.sha1(FILES[name]).hexdigest()
            self.send(FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes]
            self.send_json({"id": "someone/bert", "sha": SHA, "siblings": siblings})

    do_HEAD = do_GET

    def send_json(self, value):
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, body, headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.breaks_off])


@pytest.fixture
def hub():
    class OneHub(Hub):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), OneHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download(hub, cache):
    """What is returned or the error, and what is reported."""
    address = f"http://127.0.0.1:{hub.server_port}"
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_a_download_reports_the_bytes_as_they_come(hub, tmp_path):
    folder, seen = download(hub, tmp_path)
    assert {path.name for path in (tmp_path / folder).iterdir()} == {"config.json", "model.safetensors"}
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert sum(0 < fraction < 1 for fraction in fractions) >= 2
    assert any(message.endswith("of 30 MB") for _, message in seen)


def test_a_download_that_breaks_off_is_one_sentence(hub, tmp_path):
    hub.RequestHandlerClass.breaks_off = 1_000_000
    sentence, _ = download(hub, tmp_path)
    assert sentence.startswith("The download of 'someone/bert' failed (")
    assert "\n" not in sentence
