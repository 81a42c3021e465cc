"""The tree of errors is as its docstring draws it."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from zappend import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.ZappendError)]


def drawn() -> dict[str, tuple[str, int, str | None]]:
    """Return parent, exit code and builtin of each class in the drawing."""
    parents: list[str] = ["ZappendError"]
    found: dict[str, tuple[str, int, str | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.search(r"^    ([│ ]*)[├└]── (\w+)\s*(\d)?(.*)$", line):
            depth = len(match[1]) // 4 + 1
            parents[depth:] = [match[2]]
            builtin = re.search(r"\((\w+Error)\)", match[4])
            found[match[2]] = parents[depth - 1], int(match[3] or 1), builtin and builtin[1]
    return found


def test_tree_is_as_drawn() -> None:
    tree = drawn()
    assert set(tree) | {"ZappendError"} == {cls.__name__ for cls in CLASSES}
    for name, (parent, code, builtin) in tree.items():
        cls = getattr(errors, name)
        assert cls.__mro__[1].__name__ == parent
        assert cls.exit_code == code
        bases = {base.__name__ for base in cls.__bases__} - {parent}
        assert bases == ({builtin} if builtin else set())


def test_all_names_are_listed() -> None:
    assert set(errors.__all__) == {cls.__name__ for cls in CLASSES} | {"LockHolder"}


@pytest.mark.parametrize("cls", CLASSES)
def test_pickling(cls: type[errors.ZappendError]) -> None:
    error = cls("what happened")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error) == "what happened"
    assert again.args == error.args


def test_holder_of_a_lock_is_kept() -> None:
    error = errors.Locked("locked", {"pid": 1, "host": "here"})
    assert pickle.loads(pickle.dumps(error)).holder == {"pid": 1, "host": "here"}
    assert errors.Locked("locked").holder == {}
