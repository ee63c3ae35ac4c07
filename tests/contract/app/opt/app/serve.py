"""The application of the contract suite's images: says what it sees of its machine.

GET / answers JSON; POST /reboot and /power-off do that; POST /hang makes the next orderly stop
hang.  It counts its starts in /data/boots, so that a lost data volume shows.
"""

import http.server
import json
import signal
import socket
import subprocess
from pathlib import Path

SEED = Path("/run/upkeep-seed")


def count_start():
    counter = Path("/data/boots")
    boots = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(boots))
    return boots


VERSION = json.loads(Path("/etc/upkeep/image.json").read_text())["version"]
STARTS = count_start()


def look():
    return {
        "version": VERSION,
        "starts": STARTS,
        "uuid": Path("/etc/machine-id").read_text().strip(),
        "host_name": socket.gethostname(),
        "seed": {path.name: path.read_text() for path in sorted(SEED.iterdir())},
        "touched": Path("/etc/touched").exists(),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(look())

    def do_POST(self):
        self.answer({})
        match self.path:
            case "/reboot":
                subprocess.run(("systemctl", "--no-block", "reboot"), check=True)
            case "/power-off":
                subprocess.run(("systemctl", "--no-block", "poweroff"), check=True)
            case "/hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "/touch":
                Path("/etc/touched").touch()

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *arguments):
        pass


class Server(http.server.HTTPServer):
    allow_reuse_address = True


Server(("", 8080), Handler).serve_forever()
