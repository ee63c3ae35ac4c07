"""Fixtures of the page's tests: a filled database, a server over it, a browser."""

import ipaddress
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from upkeep.api.change_feed import ChangeFeed
from upkeep.store.database import Database
from upkeep.store.migrate import migrate

sys.path.insert(0, str(Path(__file__).parent))

from page_world import (
    CHROMIUM_ARGUMENTS,
    Fleet,
    PageServer,
    PageWorld,
    Visitor,
    WallClock,
    make_token,
)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "page.crt").write_bytes(signed.public_bytes(pem))
    (folder / "page.key").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return folder / "page.crt", folder / "page.key"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PageWorld]:
    database = Database(f"sqlite:///{tmp_path / 'upkeep.db'}")
    migrate(database)
    yield PageWorld(database=database, clock=WallClock(), notify=ChangeFeed())
    database.close()


@pytest.fixture
def fleet(world: PageWorld) -> Fleet:
    return Fleet(world.database, world.notify)


@pytest.fixture
def token(world: PageWorld) -> str:
    return make_token(world, "upk_looker", "looker")


@pytest.fixture
def server(world: PageWorld, certificate: tuple[Path, Path]) -> Iterator[PageServer]:
    running = PageServer(world, *certificate)
    yield running
    running.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=CHROMIUM_ARGUMENTS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser, server: PageServer) -> Iterator[BrowserContext]:
    """Closed before the server is, which then has nobody to wait for."""
    opened = browser.new_context(
        ignore_https_errors=True, viewport={"width": 1440, "height": 900}, color_scheme="light"
    )
    yield opened
    opened.close()


@pytest.fixture
def visitor(context: BrowserContext, server: PageServer, token: str) -> Visitor:
    return Visitor(context, server.url, token)
