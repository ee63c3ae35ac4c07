"""Templates to HTML, and the headers that every page carries."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response
from markupsafe import Markup

from upkeep.web.drawing import icon, meter
from upkeep.web.words import DOING, REASONS, TASKS, work

# No inline script or style anywhere; pictures are SVG in the page.  Source: DESIGN §13.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_STATIC = Path(__file__).parent / "static"
STATIC_TYPES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "mark-well.svg": "image/svg+xml",
    "mark-work.svg": "image/svg+xml",
    "mark-down.svg": "image/svg+xml",
}
STATIC_FILES = {name: (_STATIC / name).read_bytes() for name in STATIC_TYPES}


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def _static_path(name: str) -> str:
    """With the content's digest, so that a browser may keep the file for ever."""
    return f"/static/{name}?v={_digest(STATIC_FILES[name])}"


def _part(name: str, tag: str, caller: Callable[[], str]) -> Markup:
    """A piece that the script replaces when its digest has changed."""
    html = caller()
    digest = _digest(html.encode())
    return Markup('<{0} data-part="{1}" data-hash="{2}">{3}</{0}>').format(
        tag, name, digest, Markup(html)
    )


_environment = Environment(
    loader=PackageLoader("upkeep.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals.update(
    static=_static_path,
    part=_part,
    icon=icon,
    meter=meter,
    reasons=REASONS,
    doing=DOING,
    work=work,
    task_words=TASKS,
)


def roster(names: list[str]) -> str:
    """Changes when a page's groups are others than before."""
    return _digest("\n".join(names).encode())


def page(template: str, *, status: int = 200, **values: Any) -> Response[str]:
    html = _environment.get_template(template).render(**values)
    return Response(html, status_code=status, media_type="text/html", headers=dict(HEADERS))


def plain(text: str, *, status: int) -> Response[str]:
    return Response(text, status_code=status, media_type="text/plain", headers=dict(HEADERS))
