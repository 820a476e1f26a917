"""Headers that go with a stored archive, whichever store holds it."""

from __future__ import annotations

from urllib.parse import quote

#: RFC 8187 ``attr-char``: what stays as it is in ``filename*``.
_ATTR_CHARS = "!#$&+-.^_`|~"
#: Archives belong to one user; shared caches keep their hands off them.
CACHE_CONTROL = "private"


def attachment(file_name: str) -> str:
    """Return a ``Content-Disposition`` that names a download (RFC 6266, RFC 8187).

    Any script, quotes and control characters are safe in it: the plain
    ``filename`` is an ASCII approximation for old programs, ``filename*`` the
    real name in UTF-8.
    """
    plain = "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\%' else "_"
        for char in file_name
    )
    encoded = quote(file_name, safe=_ATTR_CHARS, errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
