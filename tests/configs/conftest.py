"""Tiny models, a working folder of its own for each test, and runs that later stages start from."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.configs.yamls import FIRST_STAGES, ROOT, tiny
from tests.end_to_end import tiny_world
from threestudio.run import run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_world.save_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches and outputs out of the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def started(
    world: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[str]]:
    """Train first stages when they are needed, each once.

    Returns:
        Of a YAML's name, the overrides that start it from the stage before.
    """

    @cache
    def start(name: str) -> list[str]:
        if name not in FIRST_STAGES:
            return []
        first = ROOT / f"configs/{FIRST_STAGES[name]}.yaml"
        short = [*tiny(first, world, tmp_path_factory.mktemp("first")), "trainer.max_steps=1"]
        made = run(str(first), short + start(first.stem))
        return [f"system.geometry_convert_from={made.trial_dir}/ckpts/last.ckpt"]

    return start
