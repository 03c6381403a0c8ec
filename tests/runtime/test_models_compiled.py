"""Compiling C code on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.compilers import needs_compiler
from threestudio.models.networks import compiled
from threestudio.models.networks.compiled import BuildError, build, load_library


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small C file, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "three.c"
    path.write_text("int three(void) { return 3; }\n")
    return path


@needs_compiler
def test_code_is_compiled_once_and_again_when_it_changes(source, monkeypatch):
    assert load_library(source).three() == 3
    first = build(source)
    assert first.parent == compiled.cache_folder() and first.name.startswith("three-")
    made = first.stat().st_mtime_ns
    assert build(source) == first and first.stat().st_mtime_ns == made
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-g"))
    assert build(source) != first
    source.write_text("int three(void) { return 4; }\n")
    assert load_library(source).three() == 4
    assert len(list(first.parent.iterdir())) == 3, "no leftovers"


@needs_compiler
def test_processes_that_build_at_once_do_not_disturb_each_other(source):
    code = (
        "import runpy, sys, pathlib\n"
        "build = runpy.run_path(sys.argv[1])['load_library']\n"
        "print(build(pathlib.Path(sys.argv[2])).three())"
    )
    command = [sys.executable, "-c", code, compiled.__file__, str(source)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [p.communicate() for p in processes] == [("3\n", "")] * 4
    assert len(list(compiled.cache_folder().iterdir())) == 1


@needs_compiler
def test_the_compilers_complaint_is_passed_on(source):
    source.write_text("int three(void) { return tree; }\n")
    with pytest.raises(BuildError, match="the C compiler failed .*three"):
        load_library(source)
    assert not list(compiled.cache_folder().iterdir())


@needs_compiler
def test_a_cache_that_cannot_be_used_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    with pytest.raises(BuildError, match="could not be compiled or loaded .*three.c/threestudio"):
        load_library(source)


@needs_compiler
def test_a_damaged_library_is_no_crash(source):
    build(source).write_text("not a library")
    with pytest.raises(BuildError, match="could not be compiled or loaded"):
        load_library(source)


def test_the_variable_cc_names_the_compiler(source, monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    assert compiled.compiler() == ["/nowhere/cc", "-m64"]
    with pytest.raises(BuildError, match="/nowhere/cc"):
        load_library(source)


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert compiled.cache_folder() == Path("/home/someone/.cache/threestudio")
