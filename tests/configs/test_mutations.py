"""500 YAMLs with a mistake each: one clear message or a working run, never a traceback."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from tests.configs.yamls import ROOT
from tests.end_to_end import tiny_world
from tests.helpers.mutations import misspelt, mutate, paths
from threestudio import cli
from threestudio.run import run

BASES = (
    "custom/threestudio-reward-sds/configs/blocks-mvdream-reward-sds.yaml",
    "custom/threestudio-reward-sds/configs/sd21-nerf-reward-sds.yaml",
    "configs/dreamfusion-sd.yaml",
    "configs/mvdream-sd21-shading.yaml",
    "configs/image-sd21-dds.yaml",
    "custom/threestudio-reward-sds/configs/image-sd21-reward-sds.yaml",
)
COUNT, AT_A_TIME = 500, 25
SLOW = ("data dropped",)
"""What is right but takes minutes: 120 views of 512 pixels."""


def base(path: str, world: dict[str, str]) -> dict[str, Any]:
    """Return a committed YAML with the settings that make a run of it tiny."""
    config = OmegaConf.load(ROOT / path)
    plain = OmegaConf.to_container(config)
    small = tiny_world.overrides(plain, world, Path("out"))
    small += ["trainer.max_steps=1", "data.n_test_views=1", "data.n_val_views=1"]
    small += ["use_timestamp=false"]
    return OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(small)))


def outcome(config: dict[str, Any]) -> str:
    """Run a configuration; return what the user would read, or nothing if it worked.

    Raises:
        Exception: What the command line would show as a traceback.
    """
    Path("c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    try:
        run("c.yaml")
    except Exception as error:
        if not cli.is_for_user(error):
            raise
        return cli.describe(error)
    return ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, COUNT, AT_A_TIME))
def test_a_mistake_is_a_message_or_no_mistake(
    first: int, world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "custom").symlink_to(ROOT / "custom")
    monkeypatch.chdir(tmp_path)
    config = base(BASES[first // AT_A_TIME % len(BASES)], world)
    tracebacks = {}
    for seed in range(first, first + AT_A_TIME):
        mutated, mistake = mutate(config, seed)
        if mistake in SLOW:
            continue
        try:
            said = outcome(mutated)
        except Exception as error:
            tracebacks[mistake] = f"{type(error).__name__}: {error}"
        else:
            assert "Traceback" not in said
    assert not tracebacks, "\n".join(f"{what}: {error}" for what, error in tracebacks.items())


def test_the_same_seed_makes_the_same_mistake_and_leaves_the_original_alone():
    config = {"a": 1, "b": {"c": 2}}
    made = [mutate(config, seed) for seed in range(50)]
    assert config == {"a": 1, "b": {"c": 2}}
    again = [mutate(config, seed) for seed in range(50)]
    assert [what for _, what in made] == [what for _, what in again]
    changed = [mutated for mutated, _ in made if mutated != config]
    assert len(changed) >= 49
    assert {what.split()[0] for _, what in made} == {"a", "b", "b.c"}
    assert list(paths(config)) == [("a",), ("b",), ("b", "c")]


def test_a_misspelt_word_is_another_word():
    for seed in range(100):
        for word in ("a", "ll", "loss", "max_steps"):
            assert misspelt(word, random.Random(seed)) != word
