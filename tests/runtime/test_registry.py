"""Names to classes, who owns them, and what a wrong name is answered with."""

import subprocess
import sys

import pytest

import threestudio
from threestudio import registry
from threestudio.utils.errors import UserError


@pytest.fixture(autouse=True)
def undo():
    """Undo every registration of a test."""
    threestudio.load_builtin_components()
    state = registry.snapshot()
    yield
    registry.restore(state)


def make(owner: str, name: str = "Part") -> type:
    """Return a class that claims to come from the package `owner`."""
    return type(name, (), {"__module__": f"{owner}.module"})


def test_find_returns_what_was_registered_and_modules_lists_it():
    cls = registry.register("my-part")(make("my-extension"))
    assert threestudio.find("my-part") is cls
    assert threestudio.__modules__["my-part"] is cls


def test_builtins_are_known_without_importing_them_first():
    code = "import threestudio; print('mvdream-system' in threestudio.__modules__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"


def test_importing_the_package_does_not_import_torch():
    code = "import sys, threestudio, threestudio.cli; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_unknown_name_shows_close_matches_and_is_a_key_error_too():
    with pytest.raises(KeyError) as caught:
        threestudio.find("mvdream-sistem")
    assert isinstance(caught.value, UserError)
    assert "Did you mean 'mvdream-system'" in str(caught.value)


def test_unknown_name_tells_which_extension_failed_to_import():
    registry.remember_import_failure("my-extension", "ImportError: no module foo")
    try:
        with pytest.raises(UserError, match="'my-extension', which failed to import.*foo"):
            threestudio.find("my-guidance")
    finally:
        registry.remember_import_failure("my-extension", None)


def test_two_extensions_may_not_claim_one_name():
    registry.register("my-part")(make("one-extension"))
    with pytest.raises(ValueError, match="'one-extension'.*'two-extension'"):
        registry.register("my-part")(make("two-extension"))


def test_an_extension_replaces_the_runtime_and_keeps_the_name():
    registry.register("my-part")(make("threestudio", "Old"))
    new = registry.register("my-part")(make("my-extension", "New"))
    registry.register("my-part")(make("threestudio", "Old"))
    assert threestudio.find("my-part") is new


def test_a_preset_takes_free_names_only_and_gives_way():
    preset = registry.register("my-part", preset=True)(make("one-extension"))
    assert threestudio.find("my-part") is preset
    new = registry.register("my-part")(make("two-extension"))
    registry.register("my-part", preset=True)(make("three-extension"))
    assert threestudio.find("my-part") is new


def test_mixin_puts_subs_in_front():
    """`main:sub1,sub2` has the bases (sub1, sub2, main), so sub1's attributes win."""
    main = registry.register("main")(type("Main", (), {"__module__": "a", "x": 0, "y": 0}))
    one = registry.register("sub1")(type("One", (), {"__module__": "a", "x": 1}))
    two = registry.register("sub2")(type("Two", (), {"__module__": "a", "x": 2, "y": 2}))
    mixed = threestudio.find("main:sub1, sub2")
    assert mixed.__bases__ == (one, two, main)
    assert (mixed.x, mixed.y) == (1, 2)


@pytest.mark.parametrize("name", ["main:", ":sub", "main:sub:sub"])
def test_malformed_mixin(name: str):
    with pytest.raises(UserError, match="main:sub1,sub2"):
        threestudio.find(name)
