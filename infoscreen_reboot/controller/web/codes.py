"""The only door to segno: an address as a code that a phone reads. Loaded where labels are made."""

from __future__ import annotations

from markupsafe import Markup

_MISSING = "segno is not installed on the server: apt install python3-segno"
# A seventh of it may be scratched or dirty. For more of it the squares would be smaller, and take longer to draw.
_SPARE = "m"
# Cameras find it by the white around it.
_WHITE_AROUND = 4


class NoCodes(Exception):
    """The sentence says what is missing."""


def drawn(address: str) -> Markup:
    """As an SVG that a page can have inside of it; black on white, also where the page is dark. Raises NoCodes."""
    try:
        import segno
    except ImportError:
        raise NoCodes(_MISSING) from None
    code = segno.make_qr(address, error=_SPARE)
    return Markup(
        code.svg_inline(omitsize=True, border=_WHITE_AROUND, dark="#000", light="#fff", svgclass=None, lineclass=None)
    )
