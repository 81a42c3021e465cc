"""Every example of the guide is run, from top to bottom, in an empty folder; what is printed is what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zappend.settings import ALIASES, Settings

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"

BOX = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def boxes() -> Iterator[tuple[str, str, int]]:
    """Iterate over what stands in boxes: its language, its text, and the line where it begins."""
    text = GUIDE.read_text()
    for match in BOX.finditer(text):
        yield match[1], match[2], text.count("\n", 0, match.start()) + 2


def run_console(text: str, env: dict[str, str]) -> None:
    """Run the commands of a box one by one; an ellipsis in the output stands for anything."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        if exported := re.fullmatch(r"export (\w+)=(.*)", command):
            env[exported[1]] = exported[2]
            continue
        done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True)
        output = done.stdout if expected[:6] != "Error:" else done.stderr
        pattern = re.escape(expected).replace("…", ".*")
        assert re.fullmatch(pattern, output, re.DOTALL), f"{command}\n{done.stdout}{done.stderr}"
        assert (done.returncode == 0) == (expected[:6] != "Error:")


def test_every_example_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    names: dict[str, Any] = {"__name__": "guide"}
    kinds = set()
    for kind, text, line in boxes():
        kinds.add(kind)
        first = re.match(r"# ([\w.-]+\.(?:yaml|toml|py))\n", text)
        if kind == "console":
            run_console(text, env)
        elif first:
            Path(first[1]).write_text(text)
        else:
            assert kind == "python"
            exec(compile("\n" * (line - 1) + text, str(GUIDE), "exec"), names)
    assert kinds == {"console", "python", "yaml", "toml"}


def test_the_guide_shows_every_setting() -> None:
    shown = "\n".join(text for _, text, _ in boxes()).replace("-", "_")
    text = GUIDE.read_text()
    for name in (*Settings.__struct_fields__, *ALIASES):
        assert re.search(rf"(?<![a-z]_)(?<![a-z]){name}\b", shown) or f"`{name}: " in text or f"`{name}`" in text, name
