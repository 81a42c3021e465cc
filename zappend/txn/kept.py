"""Undo logs that are kept after their commit, so that it can be taken back.

A kept log is the log of a transaction with another head, ``kept-<seq>-<txn>``, which has what that of the undo log has,
and what only the decision knew::

    documents  for each metadata document that the commit changed what it was before, nil for "was absent"
    left       hashes of these and of the root documents as the commit left them, nil for "is absent"

Originals of keys that the transaction deleted are in the log, too. The decision of each commit names the kept logs that
stay, so one counts from the moment that its transaction is committed, and no longer once a commit has come that did not
keep it. For a commit that keeps no log leaves none: the logs of those before it fit the target no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from zappend.errors import LogDamaged, TargetChanged
from zappend.txn.log import Log, told_as_damage
from zappend.txn.names import KEPT, kept_heads, kept_name
from zappend.txn.record import digest, unpack
from zappend.txn.storage import Area
from zappend.txn.store import TransactionStore, is_document

__all__ = ["KeepingStore", "KeptLog", "Reversal"]


class KeptLog(Log):
    """A log that was kept; besides what the log of a transaction has it tells

    Attributes
    ----------
    documents
        What the metadata documents were that the commit changed.
    left
        Hashes of documents as the commit left them.
    """

    documents: dict[str, bytes | None]
    left: dict[str, bytes | None]

    @classmethod
    def read(cls, place: Area, name: str) -> Self:
        """Return the kept log with the head `name`, whole and verified.

        Raises
        ------
        LogDamaged, LogVersionError
            If any object of it is missing, damaged or newer.
        """
        data = place.get(name)
        if data is None:
            raise LogDamaged(f"log object {name!r} is missing")
        with told_as_damage():
            body = unpack(name, data, KEPT)
            log = cls(place, body["txn"])
            log.documents = body["documents"]
            log.left = body["left"]
            log._load(body)
        return log


class KeepingStore(TransactionStore):
    """A transactional mapping that can keep its undo log, and take back what kept ones tell of.

    Attributes
    ----------
    keep_undo
        How many logs there are to be after the commit of this transaction, its own among them; 0: none.
    """

    keep_undo = 0
    _taken_back = 0

    def _is_empty(self) -> bool:
        return not self._taken_back and super()._is_empty()

    def _keep(self) -> list[str]:
        """Write the head by which the log is kept, if it is; return the heads of all logs that stay with the commit."""
        if not (self.keep_undo or self._taken_back):
            return []
        heads = kept_heads(self._storage.place.keys())
        if self._taken_back:
            return heads[: -self._taken_back]
        documents = {key: self._seen[key] for key in self._log_what_is_held_back()}
        left = {key: self._read(key) for key in (*documents, *self._root())}
        heads.append(kept_name(heads, self._log.txn))
        self._log.keep(
            heads[-1],
            documents=documents,
            left={key: None if value is None else digest(value) for key, value in left.items()},
        )
        return heads[-self.keep_undo :]

    def _log_what_is_held_back(self) -> list[str]:
        """Log what only a later undo needs: originals of deleted and staged chunks, and folders that will be made.

        Returns
        -------
        documents
            The documents that will change. They are not logged, for recovery does not touch them before the decision.
        """
        below = {key for prefix in self._gone_prefixes for key in self._storage.keys(prefix)}
        touched = dict.fromkeys((*below, *self._gone, *self._staged, *self._spilled, *self._held))
        documents = [key for key in touched if is_document(key)]
        self._seen |= self._storage.get_many(key for key in documents if key not in self._seen)
        chunks = [key for key in touched if not (is_document(key) or key in self._logged)]
        listed = tuple(self._gone_prefixes)
        self._folders_too += self._storage.missing_folders(documents)
        if chunks or self._folders_too:
            unseen = [key for key in chunks if key.startswith(listed) and key not in below]
            self._flush(chunks, unseen, {}, by_reference=True)
        return documents

    def _take_back(self, reversal: Reversal) -> None:
        """Make everything what it was before the commits of some kept logs, which this commit then drops."""
        self._taken_back = len(reversal.logs)
        self._folders_too += reversal.folders
        self.log_ahead((), reversal.changed, by_reference=True)
        for log in reversal.logs:
            for originals in log.originals():
                self.update({key: value for key, value in originals.items() if reversal.sources[key] is log})
            kept = {key: name for key, name in log.references.items() if reversal.sources[key] is log}
            with self._writing(kept), self._dooming():
                self._storage.restore(kept, self._log.txn)
        self.update({key: value for key, value in reversal.documents.items() if value is not None})
        absent = [*reversal.absent, *(key for key, value in reversal.documents.items() if value is None)]
        with self._writing(absent), self._guard:
            self._gone.update(dict.fromkeys(absent))


class Reversal:
    """What is to be done to take back the commits of some kept logs together.

    Parameters
    ----------
    name
        The target.
    logs
        These logs, the newest first.
    read
        Returns what documents of the target are now.

    Attributes
    ----------
    sources
        For each chunk that was changed the log that has what it held before all of them: the oldest one.
    changed, absent
        Chunks that get their originals back, and those that there were none of.
    documents
        What documents were before.
    folders
        Folders that were made.

    Raises
    ------
    TargetChanged
        If a document is not what the commit before it left.
    """

    def __init__(
        self, name: str, logs: Sequence[KeptLog], read: Callable[[Iterable[str]], Mapping[str, bytes | None]]
    ) -> None:
        self.logs = logs
        self.sources: dict[str, KeptLog] = {}
        self.documents: dict[str, bytes | None] = {}
        self.folders: list[str] = []
        absent: set[str] = set()
        now = read(dict.fromkeys(key for log in logs for key in log.left))
        for log in logs:
            for key, expected in log.left.items():
                value = self.documents.get(key, now[key])
                if (None if value is None else digest(value)) != expected:
                    raise TargetChanged(
                        f"{key!r} of {name} is not what the commit left that is to be taken back: it was changed by "
                        f"others since, so nothing was taken back; put back what the commit left, or keep the target "
                        f"as it is"
                    )
            self.documents |= log.documents
            self.sources.update(dict.fromkeys((*log.absent, *log.changed), log))
            absent.update(log.absent)
            absent.difference_update(log.changed)
            self.folders += log.folders
        self.absent = [key for key in self.sources if key in absent]
        self.changed = [key for key in self.sources if key not in absent]
