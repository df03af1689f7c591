"""What an object store's client reports, in a line that names no secret and no query. Pure."""

from __future__ import annotations

import re

_CODE = re.compile(r"<Code>(\w+)</Code>")
_URL = re.compile(r"\w+://(?:[^\s/?#@]*@)?(?P<host>[^\s/?#]*)(?P<path>[^\s?#]*)\S*")
_CALL = re.compile(
    r"(?:Error performing list request: )?Error performing (?P<verb>[A-Z]+) (?P<url>\S+) in [^\s,]+"
    r"(?P<retries>, after \d+ retries)?.*? - "
)
_KIND = re.compile(r"^Generic \w+ error: ")


def plain_report(report: str) -> str:
    """The first line of a report, with the error code of the answer that it goes on with.

    What was asked is told by host and path: user, password and query of a URL may be secrets.
    """
    line = report.strip().partition("\n")[0].partition("<?xml")[0].rstrip()
    line = _CALL.sub(_told_call, _KIND.sub("", line))
    line = _URL.sub(lambda found: found["host"] + found["path"], line)
    code = _CODE.search(report)
    return f"{line} {code[1]}" if code is not None and code[1] not in line else line


def plain_place(url: str) -> str:
    """A registry's or lake's URL as it may be shown: without user, password and query."""
    scheme, mark, _ = url.partition("://")
    if not mark or scheme == "file":
        return url
    return _URL.sub(lambda found: f"{scheme}://{found['host']}{found['path']}", url, count=1)


def _told_call(found: re.Match[str]) -> str:
    return f"{found['verb']} of {found['url']} failed{found['retries'] or ''}: "
