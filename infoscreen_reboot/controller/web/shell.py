"""The frame around every page: its headers, how times are said in it, and what a refusal looks like."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from infoscreen_reboot import __version__
from infoscreen_reboot.controller import calendar
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import KINDS, Problem
from infoscreen_reboot.controller.orders import Kind

HERE = Path(__file__).parent
SIGN_IN = "/sign-in"
# Nothing inline, nothing from elsewhere, in no frame. docs/security.md says what each part is for.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "HX-Request",
}
# What typing something else may put right. Whatever the audit has to hear of is not among it.
_TYPED = ("invalid", "exists", "changed_meanwhile", Kind.BAD_SELECTOR, Kind.BAD_TERMS)
MINUTES = "how many minutes, as 120"
# What is answered to programs, whatever went wrong.
_FOR_PROGRAMS = ("/api/", "/metrics", "/healthz", "/readyz")


def is_page(request: Request) -> bool:
    """Whether somebody with a browser asks."""
    return not request.url.path.startswith(_FOR_PROGRAMS)


def page(call: Call | None, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page. Also to htmx, which takes out of it what it wants: so no history holds a part of a page."""
    who, now = (call.who, clock(call)) if call is not None else (None, None)
    content = _templates().get_template(template).render(who=who, now=now, **values)
    return HTMLResponse(content, status, _HEADERS)


def part(call: Call, template: str, **values: Any) -> HTMLResponse:
    """Some rows or cells, for a script of ours."""
    return HTMLResponse(_templates().get_template(template).render(now=clock(call), **values), headers=_HEADERS)


def clock(call: Call) -> datetime:
    """The database's: that of this machine may be wrong."""
    with call.read() as tx:
        return tx.now


def see(address: str) -> Response:
    """After a POST: a page that can be read again without doing anything again."""
    return RedirectResponse(address, 303)


def again(problem: Problem) -> int:
    """The status of a form that is shown again with its fault. Raises the problem if typing it anew is no help."""
    if problem.kind not in _TYPED:
        raise problem
    return KINDS[problem.kind][0]


def number(said: Mapping[str, str], name: str, words: str) -> int:
    """A field of a form that holds one; `words` are what belongs into it. Raises Problem."""
    typed = said[name]
    if not (typed.isascii() and typed.isdigit() and len(typed) < 6):
        raise Problem("invalid", f"{name}: write {words}")
    return int(typed)


def refusal(request: Request, problem: Problem) -> Response:
    """Whoever is not signed in is led to where he can; all else is a page that says why, and what to do."""
    if problem.kind == "not_authenticated" and not request.url.path.startswith(SIGN_IN):
        return _to_sign_in(request)
    status, title = KINDS[problem.kind]
    # Where the database cannot be used, not even the frame can ask it.
    call: Call | None = getattr(request.state, "call", None) if status < 500 else None
    return page(call, "refusal.html", status, title=title, problem=problem)


def _to_sign_in(request: Request) -> Response:
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    address = f"{SIGN_IN}?next={quote(wanted)}" if request.method == "GET" and wanted != "/" else SIGN_IN
    if "HX-Request" in request.headers:
        # A sign-in form inside of a cell helps nobody.
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN})
    return RedirectResponse(address, 303)


@functools.cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters.update(moment=moment, ago=ago, local=local, words=words, short=short)
    found.globals["version"] = __version__
    return found


def moment(at: datetime | None) -> Markup:
    """In UTC; a script of ours turns it into the time of whoever reads it."""
    if at is None:
        return Markup('<span class="none">never</span>')
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(_iso(utc), f"{utc:%Y-%m-%d %H:%M:%S}")


def ago(at: datetime | None, now: datetime) -> Markup:
    """How long ago, and a script counts on."""
    if at is None:
        return Markup('<span class="none">never</span>')
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}" data-ago title="{} UTC">{}</time>').format(
        _iso(utc), f"{utc:%Y-%m-%d %H:%M:%S}", span((now - utc).total_seconds())
    )


def there(at: datetime | None, zone: str) -> str:
    """By the clock where the client is. Empty for a zone that the system does not have."""
    known = calendar.known(zone)
    return "" if at is None or known is None else f"{at.astimezone(known):%a %H:%M} in {zone}"


def local(at: datetime | None, zone: str) -> Markup:
    """The same beside a time of the reader's. The script hides it where both clocks show the same; without the script
    times are in UTC."""
    said, known = there(at, zone), calendar.known(zone)
    if at is None or known is None:
        return Markup()
    is_utc = not at.astimezone(known).utcoffset()
    return Markup('<small class="there" data-at="{}" data-zone="{}"{}>{}</small>').format(
        _iso(at.astimezone(UTC)), zone, Markup(" hidden") if is_utc else "", said
    )


def span(seconds: float) -> str:
    """As the script `console.js` says it, too: both show the same."""
    whole = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def words(name: object) -> str:
    """`needs_person` as people write it."""
    return str(name).replace("_", " ")


def short(uuid: object) -> str:
    return str(uuid)[:8]


def _iso(utc: datetime) -> str:
    return f"{utc:%Y-%m-%dT%H:%M:%S}Z"
