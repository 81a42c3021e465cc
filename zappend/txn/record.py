"""The bytes of one object of the undo log.

An object is one frame::

    8 bytes   magic: 8a 7a 61 70 70 0d 0a 1a  (a byte no text has, "zapp", and a line end that text modes change)
    2 bytes   major version, big-endian: 1; a reader refuses any other
    2 bytes   minor version, big-endian: 0; grows with optional fields, which a reader passes over
    8 bytes   length n of the body, big-endian
    n bytes   body: one msgpack map
    32 bytes  SHA-256 of everything before

This layout stays for all versions, so damage can always be told from a newer version. The body has

    kind      "undo" | "undo-part" | "redo-part" | "decision" | "kept"; in object stores also "lock"
    txn       id of the transaction, 32 hexadecimal digits
    critical  names of features without which a reader would do the wrong thing; this version knows ``references``

and, by kind (see ``zappend.txn.log`` for what they mean)

    undo       parts, last, fingerprint, records, folders
    undo-part  seq, previous, records, folders
    redo-part  seq, previous, documents, staged, gone, gone_prefixes
    decision   parts, last, head, documents, staged, gone, gone_prefixes; kept, unless it is empty
    kept       parts, last, records, folders, documents, left (see ``zappend.txn.kept``)
    lock       owner, nonce, beat, lease, state, objects, settled, released (see ``zappend.txn.lockbody``)

``records`` is a list of ``[key, bytes or nil or text]``: what the key held, nil for "was absent"; text is the name of
an object beside the log that holds it, which makes the feature ``references`` critical.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Any

import msgpack

from zappend.errors import LogDamaged, LogVersionError

__all__ = ["MAX_BODY", "REFERENCES", "digest", "pack", "unpack"]

MAGIC = b"\x8azapp\r\n\x1a"
MAJOR, MINOR = 1, 0
HEADER = struct.Struct(">8sHHQ")
DIGEST_SIZE = hashlib.sha256().digest_size
REFERENCES = "references"
KNOWN_CRITICAL: frozenset[str] = frozenset({REFERENCES})

MAX_BODY = 32 * 2**20
"""Aimed-at upper bound of a body in bytes; only an object with a single longer value exceeds it."""


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of `data`, by which log objects name each other."""
    return hashlib.sha256(data).digest()


def pack(kind: str, txn: str, **fields: Any) -> bytes:
    """Return the frame of one log object of transaction `txn`."""
    return pack_named(kind, txn, **fields)[0]


def pack_named(kind: str, txn: str, *, critical: Iterable[str] = (), **fields: Any) -> tuple[bytes, bytes]:
    """Return the frame of one log object, and its `digest`, worked out on the way."""
    body: bytes = msgpack.packb({"kind": kind, "txn": txn, "critical": list(critical), **fields}, use_bin_type=True)
    header = HEADER.pack(MAGIC, MAJOR, MINOR, len(body))
    checksum, name = _digests(header, body)
    return b"".join((header, body, checksum)), name


def _digests(*framed: bytes | memoryview) -> tuple[bytes, bytes]:
    """Return the checksum of a frame, which is its end, and the digest of the whole."""
    hashed = hashlib.sha256()
    for part in framed:
        hashed.update(part)
    checksum = hashed.digest()
    hashed.update(checksum)
    return checksum, hashed.digest()


def unpack(name: str, data: bytes, *kinds: str) -> dict[str, Any]:
    """Return the body of the log object `name`, verified.

    Raises
    ------
    LogDamaged
        If `data` is anything but one whole frame of one of `kinds`.
    LogVersionError
        If it is whole, but of a newer version or with a critical feature that this version does not know.
    """
    return unpack_named(name, data, *kinds)[0]


def unpack_named(name: str, data: bytes, *kinds: str) -> tuple[dict[str, Any], bytes]:
    """Return the body of the log object `name`, verified as by `unpack`, and the `digest` of `data`."""
    if len(data) < HEADER.size + DIGEST_SIZE:
        raise LogDamaged(f"log object {name!r} is cut short: {len(data)} bytes")
    magic, major, minor, length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise LogDamaged(f"log object {name!r} does not begin as a log object does")
    if len(data) != HEADER.size + length + DIGEST_SIZE:
        raise LogDamaged(
            f"log object {name!r} has {len(data)} bytes, its header says {HEADER.size + length + DIGEST_SIZE}"
        )
    framed = memoryview(data)[:-DIGEST_SIZE]
    checksum, whole = _digests(framed)
    if checksum != data[-DIGEST_SIZE:]:
        raise LogDamaged(f"log object {name!r} does not match its checksum")
    if major != MAJOR:
        raise LogVersionError(
            f"log object {name!r} has format version {major}.{minor}, this zappend knows {MAJOR}.{MINOR}; "
            f"recover with the zappend that wrote it"
        )
    body = msgpack.unpackb(framed[HEADER.size :], raw=False, strict_map_key=True)
    if not isinstance(body, dict) or body.get("kind") not in kinds:
        found = body.get("kind") if isinstance(body, dict) else type(body).__name__
        raise LogDamaged(f"log object {name!r} is {found!r}, expected {' or '.join(map(repr, kinds))}")
    unknown = sorted(set(body.get("critical", [])) - KNOWN_CRITICAL)
    if unknown:
        raise LogVersionError(
            f"log object {name!r} needs {', '.join(unknown)}, which this zappend does not know; "
            f"recover with the zappend that wrote it"
        )
    return body, whole
