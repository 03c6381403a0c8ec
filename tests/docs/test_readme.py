"""The README says what the code does: reference tables, commands, files, links."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.docs.reference_tables import (
    README,
    ROOT,
    _yaml,
    components,
    current_block,
    other_defaults,
    render,
    settings,
)
from tests.helpers import doubles
from threestudio import registry

GAUSSIANS = ROOT / "custom/threestudio-3dgs/README.md"
EXTENSION = ROOT / "custom/threestudio-reward-sds/README.md"
PAGES = (README, ROOT / "load/README.md", EXTENSION, GAUSSIANS)


def test_reference_tables_are_up_to_date():
    assert current_block() == render(components()), "run: python tests/docs/reference_tables.py"


def test_every_registered_name_is_in_the_readme():
    text = README.read_text(encoding="utf-8")
    assert not [name for name in components() if f"`{name}`" not in text]


def test_every_setting_says_what_it_means():
    silent = [
        f"{name}.{key}"
        for name, cls in components().items()
        for key, _, meaning in settings(cls)
        if not meaning
    ]
    assert not silent


def test_defaults_of_a_guidance_are_those_that_it_uses():
    guidances = {n: cls for n, cls in components().items() if getattr(cls, "preset", None)}
    text = render(guidances)
    for name, cls in guidances.items():
        shown = {key: default for key, default, _ in settings(cls)} | other_defaults(cls)
        used, _ = doubles.extension("settings").examine(cls, {})
        used = {**used["prior"], **used}
        plain = {key: default for key, default in shown.items() if default != "{}"}  # no blocks
        assert {key: _yaml(used[key]) for key in plain} == plain
        line = ", ".join(f"`{key}: {default}`" for key, default in other_defaults(cls).items())
        assert f"| `{name}` | {line} |" in text
    assert '`objective_type: "vsd-objective"`' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_local_links_and_pictures_exist(page: Path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_in_commands_exist(page: Path):
    fences = re.findall(r"^```(\w*)$(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    commands = "\n".join(text for language, text in fences if not language)
    named = re.findall(r"(?:custom|configs|load|tests)/[\w./-]+\.(?:py|yaml|md)", commands)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_config_of_gaussians_is_on_their_page():
    text = GAUSSIANS.read_text(encoding="utf-8")
    stems = {path.stem for path in ROOT.glob("custom/threestudio-3dgs/configs/*.yaml")}
    stems |= {path.stem for path in ROOT.glob("custom/*/configs/*gaussian*.yaml")}
    assert not [stem for stem in stems if f"`{stem}`" not in text]


@pytest.fixture
def new_components() -> Iterator[None]:
    """Run the Python snippets of the README as the modules they are meant to be, then undo it."""
    before = registry.snapshot()
    snippets = re.findall(r"^```python$(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    packages = ("threestudio-reward-sds.rewards", "threestudio-reward-sds")
    try:
        for package, source in zip(packages, snippets, strict=True):
            module = ModuleType(f"{package}.mine")
            module.__package__ = package
            sys.modules[module.__name__] = module  # where dataclasses look for the class's module
            exec(source, module.__dict__)
        yield
    finally:
        registry.restore(before)
        for package in packages:
            sys.modules.pop(f"{package}.mine", None)


def test_the_reward_and_the_strategy_of_the_readme_work(new_components: None):
    built = doubles.guidance(
        reward_model_type="mine",
        reward_model={"brightness": 2.0},
        reward_strategy_type="mine",
        reward_strategy={"power": 2.0},
    )
    out = built(doubles.render(2), doubles.Prompts(), **doubles.camera_batch(2))
    assert 0 < out["reward"] < 2 and out["selected_share"] == 0.75
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    assert built.reward(images, ["a", "b"]).tolist() == [0, 2]
    weights = built.strategy(torch.tensor([[1.0], [3.0], [2.0]]), None)
    assert weights.flatten().tolist() == pytest.approx([0, 0.8, 0.2])


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
