"""Expressions in attributes: a small part of Python, read by zappend itself and never run as code."""

from zappend.expressions.walk import Expression, is_complete, parse

__all__ = ["Expression", "is_complete", "parse"]
