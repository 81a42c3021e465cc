"""The setting ``logging``: what zappend logs, and where to. Loggers of the program around it are let alone.

`logging.config.dictConfig` closes the handlers of the whole process first, and by default disables the loggers that it
does not know. Here handlers and loggers are configured one by one, and only those that the setting names.
"""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Mapping
from typing import Any

from zappend.errors import UsageError

__all__ = ["configure_logging", "log_to_stderr"]

WITH_TIME = "%(asctime)s %(levelname)s %(message)s"


_made: list[logging.Handler] = []
"""Handlers of the last configuration, which the next one takes the place of."""


class _Handler(logging.StreamHandler[Any]):
    """The handler of zappend's own, of which there is one at most."""


def configure_logging(setting: bool | str | Mapping[str, Any]) -> None:
    """Log as the setting says; nothing changes if it is ``False``.

    Raises
    ------
    UsageError
        If it is a mapping that is no configuration of logging. Some of its loggers may be configured then.
    """
    if isinstance(setting, Mapping):
        try:
            _configure(setting)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
            raise UsageError(f"setting logging: {error}; it is read as logging.config.dictConfig reads it") from error
    elif setting:
        log_to_stderr("INFO" if setting is True else setting, WITH_TIME)


def log_to_stderr(level: str, form: str) -> None:
    """Write what zappend logs, from `level` on, to standard error, each record in the form `form`."""
    logger = logging.getLogger("zappend")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
        logger.removeHandler(handler)
    new = _Handler()
    new.setFormatter(logging.Formatter(form))
    logger.addHandler(new)
    logger.setLevel(level)


def _configure(setting: Mapping[str, Any]) -> None:
    configurator = logging.config.DictConfigurator(dict(setting))
    config: Any = configurator.config
    for kind, make in (
        ("formatters", configurator.configure_formatter),
        ("filters", configurator.configure_filter),
        ("handlers", configurator.configure_handler),
    ):
        made = config.setdefault(kind, {})
        for name in sorted(made):
            try:
                made[name] = make(made[name])
                made[name].name = name
            except Exception as error:
                raise ValueError(f"{kind[:-1]} {name!r}: {error.__cause__ or error}") from error
    old, _made[:] = _made[:], config["handlers"].values()
    for name, options in config.get("loggers", {}).items():
        configurator.configure_logger(name, options)
    if "root" in config:
        configurator.configure_root(config["root"])
    for handler in old:
        handler.close()
