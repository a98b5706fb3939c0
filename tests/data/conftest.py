"""Hypothesis without its limit on an example's time, as a busy machine is not a bug; a server on this machine."""

import http.server
import threading

import pytest
from hypothesis import settings

settings.register_profile("data", deadline=None)
settings.load_profile("data")


@pytest.fixture
def server(monkeypatch):
    """An HTTP server on this machine: its files by path, and the requests it got."""
    files, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(f"{self.command} {self.path}")
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", files, requests
        httpd.shutdown()
        thread.join()
