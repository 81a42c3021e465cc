"""The version of zappend."""

__version__ = "0.9.0"
