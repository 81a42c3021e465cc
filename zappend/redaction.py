"""What no message and no log may show: passwords in URLs, and what storage options hold.

What file systems say of an error often has the whole URL in it, and sometimes a key. So everything that others say goes
through here before it is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["USER", "cause_of", "conceal", "first_line", "is_secret", "redacted"]

HIDDEN = "***"

USER = re.compile(r"(?<=://)[^/\s'\"?]*@")
"""A user, and perhaps a password, in a URL."""

PARAMETER = re.compile(
    r"(?i)([?&;][^=&?;\s]*(?:sig|token|key|secret|passw|pwd|credential|auth)[^=&?;\s]*=)[^&;\s'\"<>)]*"
)
"""What is handed to a server that signs or proves something."""

OPEN_OPTIONS = frozenset(
    {"account_name", "endpoint", "endpoint_url", "fo", "host", "hostname", "host_name", "location", "project"}
    | {"protocol", "region", "region_name", "target_protocol"}
    | {"acl", "addressing_style", "cache_storage", "cache_type", "compression", "default_acl", "default_cache_type"}
    | {"encoding", "mode", "profile", "signature_version"}
)
"""Options that tell where something lies and how it is handled, not who asks for it: their values are words that errors
need, such as ``default``."""

OPTIONS = re.compile(r"(^|_)storage_options$")
"""Settings of which no text is shown: file systems have many words for what is secret."""

SECRET = re.compile(
    r"key|secret|token|passw|passphrase|pwd|(?<![a-z])pw(?![a-z])|credential|auth|sas|signature", re.IGNORECASE
)
"""In the name of a setting: its value is not shown, wherever it stands."""

NOT_SECRET = ("chunk_key_encoding", "keys")

SHORTEST = 4
"""Characters of a value from which on it is hidden: shorter ones are part of every other word."""

_concealed: dict[str, re.Pattern[str]] = {}


def is_secret(path: Sequence[str]) -> bool:
    """Tell whether the value of the setting at `path`, names from the outermost on, may be secret by these names.

    Attributes, such as ``author`` and ``keywords``, stand in the cube for all to read.
    """
    if path[0] == "attrs" or (path[0] == "variables" and path[2:3] == ("attrs",)):
        return False
    return bool(OPTIONS.search(path[0])) or any(SECRET.search(name) for name in path[1:] if name not in NOT_SECRET)


def conceal(options: Mapping[str, Any] | None, url: object = None) -> None:
    """Let `redacted` hide the values of these storage options, and passwords in `url`, from now on and for good."""
    users = USER.findall(url) if isinstance(url, str) else []
    for value in (*_values(options or {}), *(user[:-1].partition(":")[2] for user in users)):
        if len(value) >= SHORTEST and value not in _concealed:
            forms = sorted({value, quote(value, safe=""), quote_plus(value)}, key=len, reverse=True)
            _concealed[value] = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)")


def redacted(text: str, user: str = "") -> str:
    """Return `text` without passwords, signatures and values of storage options; `user` stands for users in URLs."""
    if "://" in text:
        text = PARAMETER.sub(rf"\1{HIDDEN}", USER.sub(user, text))
    for pattern in list(_concealed.values()):
        text = pattern.sub(HIDDEN, text)
    return text


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type if it says nothing; nothing secret is in it."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])


def cause_of(error: BaseException) -> BaseException | None:
    """Return `error`, for ``raise … from``, but ``None`` if its traceback would show what is secret."""
    import traceback

    text = "".join(traceback.format_exception(error))
    return error if redacted(text) == text else None


def _values(options: Any, key: str = "") -> Iterator[str]:
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _values(value, str(name))
    elif isinstance(options, (list, tuple, set)):
        for value in options:
            yield from _values(value, key)
    elif isinstance(options, (str, bytes)) and key not in OPEN_OPTIONS:
        yield options if isinstance(options, str) else options.decode(errors="replace")
