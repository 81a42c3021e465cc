"""Settings: one schema, read from files, assignments and keywords; what is wrong is told by file, name and choice."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cubes
import msgspec
import pytest
import yaml
from commands import run
from zarr.storage import MemoryStore, WrapperStore

import zappend
from zappend.config import load_settings
from zappend.errors import SliceError, TargetError, UsageError
from zappend.schema import json_schema, reference_page
from zappend.settings import ALIASES, Settings, VariableSettings

ROOT = Path(__file__).parent.parent

SECRET = "s3cr3t-0f-n0b0dy"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Files, assignments and keywords.


def test_later_configurations_win_name_by_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "threads: 1\nvariables: {sst: {encoding: {dtype: int16, chunks: [1, 2]}}}\n")
    second = write(
        tmp_path / "b.toml", "[variables.sst.encoding]\nchunks = [3]\n[variables.ice.encoding]\ndtype = 'u1'\n"
    )
    third = write(tmp_path / "c.json", '{"lock_timeout": 3}')
    mapping = {"variables": {"sst": {"encoding": {"fill_value": -1}}}}
    settings = load_settings([first, second, third, mapping], threads=2, lock_timeout=None)
    assert (settings.threads, settings.lock_timeout) == (2, 3)
    sst = settings.variables["sst"].encoding
    assert (sst.dtype, sst.chunks, sst.fill_value) == ("int16", [3], -1)
    assert settings.variables["ice"].encoding.dtype == "u1"
    assert mapping == {"variables": {"sst": {"encoding": {"fill_value": -1}}}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "threads: ${N}\ntarget_dir: '${N}/cube'\nfixed_dims: {x: ${N}}\ngroup: $${N} $N $NO 1$$\n"),
        ("a.json", '{"threads": 7, "target_dir": "${N}/cube", "fixed_dims": {"x": 7}, "group": "$${N} $N $NO 1$$"}'),
        ("a.toml", 'threads = 7\ntarget_dir = "${N}/cube"\ngroup = "$${N} $N $NO 1$$"\nfixed_dims = {x = 7}'),
    ],
)
def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    monkeypatch.setenv("N", "7")
    settings = load_settings(path)
    assert (settings.threads, settings.target_dir, settings.fixed_dims, settings.group) == (
        7,
        "7/cube",
        {"x": 7},
        "${N} 7 $NO 1$",
    )
    monkeypatch.delenv("N")
    with pytest.raises(UsageError, match=rf"{name}: the environment has no variable 'N'; set it, or write"):
        load_settings(path)


def test_what_stands_in_the_environment_is_a_value_and_no_syntax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.yaml", "target_storage_options: {key: ${KEY}}\n")
    for value in ("a: {b", "}, anon: true, x: {", "'\"", "# no comment", "${KEY}"):
        monkeypatch.setenv("KEY", value)
        assert load_settings(path).storage_options == {"key": value}


@pytest.mark.parametrize(
    ("assigned", "found"),
    [
        ("fixed_dims.x=7", ("fixed_dims", {"x": 7})),
        ("append_step=1D", ("append_step", "1D")),
        ("attrs.title=a=b", ("attrs", {"title": "a=b"})),
        ('attrs."long.name"=[1, "2"]', ("attrs", {"long.name": [1, "2"]})),
        ("slice_polling={timeout: 5}", ("slice_polling", {"interval": 2.0, "timeout": 5.0})),
        ("max_memory=", ("max_memory", None)),
    ],
)
def test_assignments(assigned: str, found: tuple[str, Any]) -> None:
    from zappend.config import assignment

    name, value = found
    assert msgspec.to_builtins(load_settings([assignment(assigned)]))[name] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "threads"], "--set threads: write it as name=value"),
        (["--set", "=3"], "write it as name=value"),
        (["--set", "thread=3"], "--set thread: unknown setting 'thread'; did you mean 'threads'?"),
        (["--set", "threads=[1"], "--set threads: the value is none that YAML can read"),
        (["--set", "variables.a.encoding.dtyp=f4"], "variables.a.encoding: unknown name 'dtyp'; did you mean 'dtype'?"),
        (["--set", "variables.a.attr.x=f4"], "variables.a: unknown name 'attr'; did you mean 'attrs'?"),
        (["--set", "slice_polling.timeot=1"], "slice_polling: unknown name 'timeot'; did you mean 'timeout'?"),
        (["--set", "expand_dims.patern=1"], "expand_dims: unknown name 'patern'; did you mean 'pattern'?"),
        (["--set", "profiling.key=[]"], "profiling: unknown name 'key'; did you mean 'keys'?"),
        (["--set", "profiling.log_level=LOUD"], "profiling.log_level: invalid enum value 'LOUD'; there are CRITICAL"),
        (["-c", "none.yaml"], "configuration none.yaml cannot be read: No such file or directory"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], message: str) -> None:
    for command in (["config", "show"], ["append", "-t", "cube", "slice.nc"]):
        outcome = run(*command, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "a: [1"), ("a.json", "{"), ("a.toml", "a = "), ("b.yaml", "[1]")]
)
def test_files_that_cannot_be_understood(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name} (cannot be understood|must hold names)"):
        load_settings(write(tmp_path / name, text))


@pytest.mark.parametrize("config", [3, [3], object()])
def test_what_is_no_configuration(config: Any) -> None:
    with pytest.raises(UsageError, match="a configuration must be a file or a mapping, not"):
        load_settings(config)


# The schema.


def settings_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Iterate over the dotted names of all settings of a part of the schema."""
    for name, hint in get_type_hints(value).items():
        inner = next(
            (one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, msgspec.Struct)), None
        )
        if inner is None:
            yield ".".join((*path, name))
        else:
            yield from settings_of(inner, (*path, name))


ALL_SETTINGS = {
    *settings_of(Settings),
    *settings_of(VariableSettings, ("variables",)),
    "slice_polling",
    "expand_dims",
    "profiling",
    *ALIASES,
}


def test_the_json_schema_has_and_describes_every_setting(tmp_path: Path) -> None:
    outcome = run("config", "schema")
    schema = json.loads(outcome.out)
    assert (outcome.code, schema) == (0, json_schema())
    assert set(schema["$defs"]["Settings"]["properties"]) == {*Settings.__struct_fields__, *ALIASES}
    for part in schema["$defs"].values():
        assert part["additionalProperties"] is False
        assert all(len(one["description"]) > 10 for one in part["properties"].values())


def test_the_reference_page_is_that_of_the_schema() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == reference_page() == run("config", "schema", "--markdown").out
    for name in ALL_SETTINGS:
        assert f"`{name.rpartition('.')[2]}`" in reference_page()


def marked(mark: str) -> set[str]:
    """Return what tests are marked with ``pytest.mark.<mark>(…)``."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == mark:
                found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def test_each_setting_has_a_test_of_its_effect() -> None:
    assert marked("effect") == ALL_SETTINGS


WRONG: dict[str, tuple[Any, str]] = {
    "version": (2, "invalid enum value 2; there are 1"),
    "target_dir": (3, "expected `str | null`, got `int`"),
    "storage_options": ("anon", "expected `object`, got `str`"),
    "target_storage_options": ("anon", "storage_options: expected `object`, got `str`"),
    "group": ("../up", "setting group: "),
    "zarr_format": (4, "invalid enum value 4; there are 2, 3"),
    "zarr_version": (1, "zarr_format: invalid enum value 1; there are 2, 3"),
    "consolidated": ("maybe", "'maybe'"),
    "force_new": ("yes", "expected `bool`, got `str`"),
    "append_dim": ("", "expected `str` of length >= 1"),
    "append_step": ("often", "append_step must be a number, a duration"),
    "expand_dims": ("yes", "expected `bool | object`, got `str`"),
    "expand_dims.coord": (3, "expand_dims.coord: expected `str | null`, got `int`"),
    "expand_dims.attribute": (3, "expand_dims.attribute: expected `str | null`, got `int`"),
    "expand_dims.pattern": ("(", "expand_dims.pattern"),
    "expand_dims.format": (3, "expand_dims.format: expected `str | null`, got `int`"),
    "fixed_dims": ({"x": "7"}, "fixed_dims"),
    "if_exists": ("keep", "invalid enum value 'keep'; there are error, skip, replace"),
    "if_earlier": ("append", "invalid enum value 'append'; there are error, insert"),
    "keep_last": ("all", "the labels to keep must be a number of labels, at least 1, or a duration such as '30d'"),
    "included_variables": (["none"], "it has no variable 'none', which included_variables names"),
    "excluded_variables": ("sst", "expected `array`, got `str`"),
    "missing_variables": ("drop", "invalid enum value 'drop'; there are refuse, fill"),
    "variables.dims": ("time", "variables.a.dims: expected `array`, got `str`"),
    "variables.attrs": (["x"], "variables.a.attrs: expected `object`, got `array`"),
    "variables.encoding.dtype": ("f5", "variables.a.encoding.dtype: 'f5' is no type that can be stored"),
    "variables.encoding.chunks": ([1, 2, 3, 4], "variables.a.encoding.chunks: [1, 2, 3, 4] has 4 sizes"),
    "variables.encoding.shards": ([1, 2, 3], "shards"),
    "variables.encoding.compressors": ({"name": "none"}, "none"),
    "variables.encoding.compressor": ({"id": "none"}, "none"),
    "variables.encoding.filters": ([{"id": "none"}], "none"),
    "variables.encoding.serializer": ({"name": "bytes"}, "serializer"),
    "variables.encoding.fill_value": ("many", "variables.a.encoding.fill_value: 'many' is no value of"),
    "variables.encoding.scale_factor": (0, "variables.a.encoding.scale_factor: it must be a number other than zero"),
    "variables.encoding.add_offset": ("1", "variables.a.encoding.add_offset: expected"),
    "variables.encoding.units": (3, "variables.a.encoding.units: expected `str`"),
    "variables.encoding.calendar": (3, "variables.a.encoding.calendar: expected `str`"),
    "variables.encoding.dimension_separator": ("-", "invalid enum value '-'; there are ., /"),
    "variables.encoding.chunk_key_encoding": ({"name": "v3"}, "chunk_key_encoding"),
    "on_overflow": ("wrap", "invalid enum value 'wrap'; there are error, clip, mask"),
    "write_empty_chunks": ("no", "expected `bool`, got `str`"),
    "checksum": (True, "setting checksum: Zarr format 2 has none"),
    "attrs": (["title"], "expected `object`, got `array`"),
    "attrs_update_mode": ("merge", "invalid enum value 'merge'; there are keep, replace, update, ignore"),
    "permit_eval": ("yes", "expected `bool`, got `str`"),
    "slice_size": ("all", "invalid enum value 'all'; there are chunk, aligned, any"),
    "slice_source": ("no.such.name", "no.such"),
    "slice_source_kwargs": ([1], "expected `object`, got `array`"),
    "slice_engine": (3, "expected `str | null`, got `int`"),
    "slice_storage_options": ("anon", "expected `object`, got `str`"),
    "open_kwargs": (["group"], "expected `object`, got `array`"),
    "slice_polling": ("yes", "expected `bool | object`, got `str`"),
    "slice_polling.interval": (-1, "slice_polling.interval: expected `float` >= 0"),
    "slice_polling.timeout": (-1, "slice_polling.timeout: expected `float` >= 0"),
    "slice_missing_chunks": ("wait", "invalid enum value 'wait'; there are refuse, fill"),
    "threads": (0, "expected `int` >= 1"),
    "max_memory": ("much", "max_memory"),
    "persist_mem_slices": ("yes", "expected `bool`, got `str`"),
    "temp_dir": (3, "expected `str | null`, got `int`"),
    "temp_storage_options": ("anon", "expected `object`, got `str`"),
    "lock_timeout": (-1, "expected `float` >= 0"),
    "locking": ("none", "invalid enum value 'none'; there are safe, unsafe"),
    "durability": ("none", "invalid enum value 'none'; there are full, process"),
    "dry_run": ("maybe", "expected `bool`, got `str`"),
    "disable_rollback": (3, "expected `bool`, got `int`"),
    "extra": ([1], "expected `object`, got `array`"),
    "logging": ("LOUD", "invalid enum value 'LOUD'; there are CRITICAL"),
    "profiling": (3, "setting profiling: expected"),
    "profiling.enabled": (3, "setting profiling.enabled: expected"),
    "profiling.path": ("no/such/folder/p.txt", "setting profiling: no/such/folder/p.txt cannot be written: No such"),
    "profiling.log_level": ("loud", "setting profiling.log_level: invalid enum value 'loud'"),
    "profiling.keys": (["size"], "setting profiling.keys[0]: invalid enum value 'size'; there are calls, "),
    "profiling.restrictions": (["("], "setting profiling.restrictions: '(' is no pattern"),
}
"""A value that is refused, of each setting, and what the refusal says."""


@pytest.mark.parametrize("name", sorted({*ALL_SETTINGS, *WRONG}))
def test_each_setting_refuses_what_it_cannot_mean(name: str) -> None:
    value, message = WRONG[name]
    path = name.split(".")
    if path[0] == "variables":
        path.insert(1, "a")
    for part in reversed(path):
        value = {part: value}
    target: dict[str, bytes] = {}
    with pytest.raises((UsageError, SliceError), match=re.escape(message)):
        zappend.append(target, cubes.small(0), value)
    assert target == {}


# What comes of it all.


def test_config_show_tells_origins(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "threads: 1\nattrs: {title: t, more: 1}\nslice_polling: true\n")
    second = write(tmp_path / "b.yaml", "attrs: {more: {deep: 2}}\nslice_polling: {timeout: 3}\nfixed_dims: {}\n")
    outcome = run("config", "show", "-c", first, "-c", second, "--set", "threads=2", "--json")
    assert {name: (one["value"], one["origin"]) for name, one in json.loads(outcome.out).items()} == {
        "threads": (2, "--set"),
        "attrs.title": ("t", str(first)),
        "attrs.more.deep": (2, str(second)),
        "slice_polling.timeout": (3, str(second)),
        "fixed_dims": ({}, str(second)),
    }
    text = run("config", "show", "-c", first, "-c", second).out
    assert yaml.safe_load(text)["attrs.title"] == "t"
    assert f"# {second}" in text
    everything = json.loads(run("config", "show", "-c", first, "--defaults", "--json").out)
    assert {name.partition(".")[0] for name in everything} == set(Settings.__struct_fields__)
    assert everything["append_dim"] == {"value": "time", "origin": "default"}


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    config = {
        "target_dir": f"s3://me:{SECRET}@bucket/cube.zarr",
        "target_storage_options": {
            "key": SECRET,
            "client_kwargs": {"any": [SECRET]},
            "anon": False,
            "from": "${TOKEN}",
        },
        "slice_storage_options": {"account": SECRET},
        "temp_storage_options": {"username": SECRET},
        "slice_source_kwargs": {"api_key": SECRET, "plain": "shown", "from": "${TOKEN}"},
        "extra": {"deep": {"password": SECRET}, "urls": [f"https://u:{SECRET}@host/"]},
    }
    path = write(tmp_path / "a.json", json.dumps(config))
    for arguments in ([], ["--json"], ["--defaults"]):
        outcome = run("config", "show", "-c", path, *arguments)
        assert outcome.code == 0
        assert SECRET not in outcome.out + outcome.err
        assert "shown" in outcome.out
        assert "${TOKEN}" in outcome.out


@pytest.mark.parametrize(
    "text",
    [
        f"target_storage_options: {{key: {SECRET}\nthreads: 1\n",
        f"target_storage_options: {SECRET}\n",
        f"target_storage_options: {{key: [{SECRET}}}\n",
        f"target_storage_options:\n  key: {SECRET}\n bad: 1\n",
        f"slice_storage_options: ['{SECRET}']\n",
        f"threads: {SECRET}\n",
    ],
)
def test_errors_of_configurations_do_not_show_secrets(tmp_path: Path, text: str) -> None:
    for name in ("a.yaml", "a.json", "a.toml"):
        outcome = run("config", "show", "-c", write(tmp_path / name, text))
        assert outcome.code == 2
        assert SECRET not in outcome.out + outcome.err


# Single settings, that belong to nothing else.


@pytest.mark.effect("version")
def test_version() -> None:
    assert zappend.append({}, cubes.small(0), version=1) == 1


@pytest.mark.effect("disable_rollback")
def test_disable_rollback_warns_and_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(zappend.ZappendError):
        zappend.append(target, cubes.small(0), disable_rollback=True)
    assert target == before
    assert "disable_rollback has no effect" in caplog.text


@pytest.mark.effect("dry_run")
def test_a_dry_run_prints_the_plan(tmp_path: Path) -> None:
    """What it says would be written is what is written."""
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2)])
    outcome = run(
        "append", "-t", tmp_path / "cube", "--dry-run", "--append-step", "1D", "--set", "fixed_dims.x=4", *paths
    )
    assert outcome.code == 0
    assert not (tmp_path / "cube").exists()
    assert not (tmp_path / "cube.zappend").exists()
    assert f"{paths[0]}: at 0:2, " in outcome.out
    assert "the cube begins with it" in outcome.out
    assert "labels of time follow by append_step 1D" in outcome.out
    result = zappend.append(tmp_path / "cube", paths, dry_run=True)
    zappend.append(tmp_path / "cube", paths)
    there = {
        path.relative_to(tmp_path / "cube").as_posix(): path.stat().st_size
        for path in (tmp_path / "cube").rglob("*")
        if path.is_file()
    }
    assert {**result.slices[0].keys, **result.slices[1].keys} == there


@pytest.mark.effect("durability")
def test_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    zappend.append(tmp_path / "a", cubes.small(0), durability="process")
    assert not synced
    zappend.append(tmp_path / "b", cubes.small(0))
    files = sum(path.is_file() for path in (tmp_path / "b").rglob("*"))
    assert len(synced) > files


@pytest.mark.effect("zarr_format", "zarr_version")
@pytest.mark.parametrize("name", ["zarr_format", "zarr_version"])
def test_formats(name: str) -> None:
    for number, document in ((2, ".zgroup"), (3, "zarr.json")):
        target: dict[str, bytes] = {}
        zappend.append(target, cubes.small(0), {name: number})
        assert document in target
        with pytest.raises(UsageError, match=f"the target has Zarr format {number}, and zarr_format is {5 - number}"):
            zappend.append(target, cubes.small(2), {name: 5 - number})
    with pytest.raises(UsageError, match="'zarr_version' and 'zarr_format' are one setting"):
        zappend.append({}, cubes.small(0), {"zarr_version": 2}, zarr_version=2, zarr_format=2)


@pytest.mark.effect("locking")
def test_locking() -> None:
    class NoLocks(WrapperStore[MemoryStore]):
        """A store of which nothing is known."""

    target = NoLocks(MemoryStore({}))
    with pytest.raises(TargetError, match="locking='unsafe'"):
        zappend.append(target, cubes.small(0))
    assert zappend.append(target, cubes.small(0), locking="unsafe") == 1


class Host:
    """A program that logs by itself, in which zappend is called."""

    def __init__(self, path: Path) -> None:
        self.logger = logging.getLogger("host.of.zappend")
        self.handler = logging.FileHandler(path, mode="w")
        self.logger.addHandler(self.handler)

    def close(self) -> None:
        self.logger.removeHandler(self.handler)
        self.handler.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    of_zappend = logging.getLogger("zappend")
    before = of_zappend.handlers[:], of_zappend.level, of_zappend.propagate
    host = Host(tmp_path / "host.log")
    yield host
    host.close()
    for handler in set(of_zappend.handlers).difference(before[0]):
        handler.close()
    of_zappend.handlers[:], of_zappend.level, of_zappend.propagate = before


@pytest.mark.effect("logging")
@pytest.mark.parametrize("form", [True, "INFO", "mapping"])
def test_logging_lets_the_host_alone(tmp_path: Path, host: Host, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    if form == "mapping":
        form = {
            "version": 1,
            "disable_existing_loggers": True,
            "formatters": {"short": {"format": "%(levelname)s|%(message)s"}},
            "handlers": {
                "file": {"class": "logging.FileHandler", "filename": str(tmp_path / "z.log"), "formatter": "short"}
            },
            "loggers": {"zappend": {"level": "INFO", "handlers": ["file"]}},
        }
    for _ in range(2):
        zappend.append({}, cubes.small(0), logging=form)
    host.logger.warning("still here")
    assert (tmp_path / "host.log").read_text() == "still here\n"
    assert not host.logger.disabled
    text = (tmp_path / "z.log").read_text() if isinstance(form, dict) else err.getvalue()
    assert text.count("slice 0: at 0:2") == 2
    assert ("INFO|slice 0" in text) == isinstance(form, dict)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("LOUD", "setting logging: invalid enum value 'LOUD'; there are CRITICAL"),
        (3, "setting logging: expected"),
        ({"version": 1, "handlers": {"h": {"class": "no.such"}}}, "setting logging: handler 'h'"),
        ({"version": 1, "loggers": {"zappend": {"level": "LOUD"}}}, "setting logging: .*LOUD"),
    ],
)
def test_logging_refused(host: Host, value: Any, message: str) -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=message):
        zappend.append(target, cubes.small(0), logging=value)
    assert target == {}


@pytest.mark.effect(
    "profiling",
    "profiling.enabled",
    "profiling.path",
    "profiling.log_level",
    "profiling.keys",
    "profiling.restrictions",
)
def test_profiling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "zappend")
    path = tmp_path / "profile.txt"
    zappend.append({}, cubes.small(0), profiling=str(path))
    assert "Ordered by: internal time" in path.read_text()
    assert path.read_text() in caplog.text
    caplog.clear()
    zappend.append(
        {},
        cubes.small(0),
        profiling={"path": str(path), "log_level": "NOTSET", "keys": ["ncalls", "name"], "restrictions": [5, "a"]},
    )
    assert "Ordered by: call count, function name" in path.read_text()
    assert "due to restriction <5>" in path.read_text()
    assert "Ordered by" not in caplog.text
    path.unlink()
    zappend.append({}, cubes.small(0), profiling={"path": str(path), "enabled": False})
    assert not path.exists()
    zappend.append({}, cubes.small(0), profiling={"log_level": "DEBUG"})
    assert [one.levelname for one in caplog.records if "Ordered by" in one.message] == ["DEBUG"]
    zappend.append({}, cubes.small(0), profiling=True)
    assert [one.levelname for one in caplog.records if "Ordered by" in one.message] == ["DEBUG", "INFO"]
