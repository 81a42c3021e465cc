"""The shape of the project: what is public, and that imports go one way."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import zappend

ROOT = Path(zappend.__file__).parent
MODULES = sorted(
    ".".join(("zappend", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if path.name not in ("__main__.py", "__init__.py")
)

LAYERS = ["cli", "demo", "api", "runs", "appender", "plan", "slices"]
"""From the top; each may import those after it, and none before it."""


def imports(module: str) -> set[str]:
    path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("zappend"):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found & set(MODULES) | {name for name in found if name.split(".")[0] in ("argparse", "numpy", "xarray")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    found = imports(module)
    assert "argparse" not in found
    if module.startswith("zappend.txn."):
        assert all(name.startswith(("zappend.txn.", "zappend.errors")) for name in found)
    elif module not in ("zappend.api", "zappend.runs", "zappend.cli", "zappend.dryrun", "zappend.testing"):
        assert not any(name.startswith("zappend.txn") for name in found)
    name = module.split(".")[1]
    if name in LAYERS:
        above = LAYERS[: LAYERS.index(name)]
        assert not found & {f"zappend.{layer}" for layer in above}


def test_there_is_no_circle() -> None:
    graph = {module: imports(module) & set(MODULES) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' → '.join((*path, module))}"
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", ["zappend", "zappend.txn", *MODULES])
def test_public_names_are_there(module: str) -> None:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None)
    if module != "zappend.version":
        assert all(hasattr(loaded, name) for name in names)


def test_the_readme_names_every_module() -> None:
    readme = (ROOT.parent / "README.md").read_text()
    for module in MODULES:
        name = "/".join(module.split(".")[1:])
        assert f"`{name}`" in readme or name == "version"


def test_importing_zappend_is_light() -> None:
    code = "import sys, zappend; print([m for m in ('numpy', 'xarray', 'zarr', 'rich_click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
