"""Transactions on keys and bytes: all or nothing, whatever happens in between. Knows nothing of arrays."""

from zappend.txn.context import Transaction, rollback, transaction
from zappend.txn.replay import Settlement

__all__ = ["Settlement", "Transaction", "rollback", "transaction"]
