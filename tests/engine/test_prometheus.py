"""Whether a query fires: a real Prometheus, and servers that answer as none does."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.real_prometheus import running_prometheus

from upkeep.core.alarm import AlarmState
from upkeep.engine.prometheus import CannotAskError, Prometheus, url_error


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus")) as url:
        yield url


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    made = Prometheus(allow_local=True)
    yield made
    made.close()


SERIES = (
    'label_replace(vector(3), "job", "api", "", "") or label_replace(vector(4), "job", "b", "", "")'
)


@pytest.mark.parametrize(
    ("query", "state", "detail"),
    [
        ("vector(1)", AlarmState.FIRING, "it is 1"),
        ("vector(1) > 2", AlarmState.QUIET, "nothing"),
        ("up == 0", AlarmState.QUIET, "nothing"),
        ("time() > bool 1", AlarmState.FIRING, "it is 1"),
        ("time() < bool 1", AlarmState.QUIET, "it is 0"),
        (SERIES, AlarmState.FIRING, "job=api is 3 and 1 more"),
    ],
)
def test_a_query_fires_where_its_answer_is_not_empty(
    address: str, prometheus: Prometheus, query: str, state: AlarmState, detail: str
) -> None:
    answer = prometheus.ask(address + "/", query)
    assert (answer.state, answer.detail) == (state, detail)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(", "the query is refused: "),
        ("up[5m]", "the query answers a matrix: write one that answers a vector"),
        ('"text"', "the query answers a string"),
    ],
)
def test_a_query_that_cannot_fire_is_refused_and_says_why(
    address: str, prometheus: Prometheus, query: str, words: str
) -> None:
    with pytest.raises(CannotAskError) as refused:
        prometheus.ask(address, query)
    assert str(refused.value).startswith(words)


def test_the_servers_own_side_is_not_looked_at_unless_that_is_allowed(address: str) -> None:
    with pytest.raises(CannotAskError, match="allow-local-alarms"):
        Prometheus().ask(address, "vector(1)")
    for host in ("169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "0.0.0.0"):
        with pytest.raises(CannotAskError, match="allow-local-alarms"):
            Prometheus().ask(f"http://{host}:9090", "vector(1)")


def test_nobody_there_is_said(prometheus: Prometheus) -> None:
    with pytest.raises(CannotAskError, match="does not answer"):
        prometheus.ask("http://127.0.0.1:9", "vector(1)")
    with pytest.raises(CannotAskError, match="is no known host"):
        prometheus.ask("http://nowhere.invalid:9090", "vector(1)")


def a_server_that(answers: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers(self)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def says(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


VECTOR = b'{"status":"success","data":{"resultType":"vector","result":%s}}'


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (says(200, b"<html>"), "does not answer as a Prometheus does"),
        (says(200, b"[1]"), "does not answer as a Prometheus does"),
        (says(200, b"["), "does not answer as a Prometheus does"),
        (says(200, b"[" * 100_000), "does not answer as a Prometheus does"),
        (says(200, VECTOR % b"[{}]"), "does not answer as a Prometheus does"),
        (says(200, VECTOR % b"[7]"), "does not answer as a Prometheus does"),
        (says(302, b"", Location="http://127.0.0.1:1/"), "does not answer as a Prometheus does"),
        (says(503, b'{"status":"error","error":"starting"}'), "is refused: starting"),
        (says(200, b" " * (2 << 20)), "longer than 1 MiB"),
        (lambda handler: handler.connection.close(), "does not answer"),
    ],
)
def test_what_no_prometheus_answers_is_no_answer(
    prometheus: Prometheus, answers: Callable[[BaseHTTPRequestHandler], None], words: str
) -> None:
    server = a_server_that(answers)
    try:
        with pytest.raises(CannotAskError, match=words):
            prometheus.ask(f"http://127.0.0.1:{server.server_address[1]}", "vector(1)")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["http://p:9090", "https://p", "http://[fd00::1]:9090/prom"])
def test_an_address_of_a_prometheus(url: str) -> None:
    assert url_error(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "", "p:9090", "ftp://p", "http://", "http://p:0", "http://p:99999", "http://p:x",
        "http://user:word@p", "http://p?query=1", "http://p#x", "http://p /", "http://[::1",
        "http://p\n", "http://ü", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_none(url: str) -> None:
    assert url_error(url)
