"""The demonstration's application: one page that says who it is, and a health answer.

It keeps a marker on the data volume, made at the first start, so that anybody who asks can see
whether the data has survived.  An image with /etc/demo-broken answers 503 to everything.
"""

import json
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = 8080
MARKER = Path("/data/demo-marker")
BROKEN = Path("/etc/demo-broken").exists()


def read_marker() -> str:
    if not MARKER.exists():
        MARKER.write_text(uuid.uuid4().hex)
    return MARKER.read_text()


IDENTITY = {
    "host": Path("/proc/sys/kernel/hostname").read_text().strip(),
    "version": json.loads(Path("/etc/upkeep/image.json").read_text())["version"],
    "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "marker": read_marker(),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(IDENTITY).encode()
        self.send_response(503 if BROKEN else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # Ten questions a second would fill the journal.


ThreadingHTTPServer(("", PORT), Handler).serve_forever()
