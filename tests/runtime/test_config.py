"""YAML, overrides and interpolations to an ExperimentConfig; blocks to typed configs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

import pytest
from omegaconf import OmegaConf

from threestudio.extensions import load_extensions
from threestudio.utils.config import (
    C_max,
    ExperimentConfig,
    config_to_primitive,
    load_config,
    merge_configs,
    parse_structured,
)
from threestudio.utils.errors import ConfigError
from threestudio.utils.text import slug

LONG = "a red cube " * 900
AWKWARD = [
    "a/b/../c",
    "dots... and .hidden",
    'it\'s a "cube"',
    "a robot 🤖 with 👩‍🚀",
    "red: cube",
    "[cube]",
    "{cube",
    "# cube",
    "cube # 2",
    "yes",
    "1e3",
    "a = b",
    "- cube",
    "line\nbreak",
    " leading space",
    "*cube",
    "costs $5",
    LONG,
]


@dataclass
class Block:
    a: float = 1.0
    b: Union[float, str] = 1.0
    c: int = 1
    pair: Tuple[float, float] = (1.0, 2.0)
    table: dict = field(default_factory=dict)
    names: Optional[List[str]] = None
    free: Any = None


def test_none_is_an_empty_block():
    assert parse_structured(Block, None).a == 1.0


@pytest.mark.parametrize("wrap", [lambda x: x, OmegaConf.create])
def test_lists_plain_or_not_pass_as_schedules(wrap):
    cfg = parse_structured(Block, wrap({"a": [0, 0.98, 0.5, 8000], "pair": [3, 4], "names": ["x"]}))
    assert list(cfg.a) == [0, 0.98, 0.5, 8000]
    assert list(cfg.pair) == [3, 4] and list(cfg.names) == ["x"]


def test_numbers_are_converted_where_that_is_safe():
    cfg = parse_structured(Block, {"a": 3, "b": 25, "c": "4"})
    assert (cfg.a, cfg.b, cfg.c) == (3.0, 25.0, 4)
    assert isinstance(cfg.a, float) and isinstance(cfg.b, float)
    assert parse_structured(Block, {"b": "auto"}).b == "auto"


def test_a_mapping_stays_open_and_has_attributes():
    table = parse_structured(Block, {"table": {"x": {"y": 1}}}).table
    assert table.x.y == 1 and not hasattr(table, "z") and table.get("z", 5) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"aa": 1}, "Block: aa is not a known key. Did you mean `a`"),
        ({"a": "four"}, "Block: a is 'four', but needs a number or a list of numbers."),
        ({"a": None}, "a is None, but needs a number"),
        ({"pair": [1, 2, 3]}, "but needs a list of 2 values"),
        ({"pair": [1, "x"]}, "but needs a list of 2 values"),
        ({"c": 3.5}, "c is 3.5, but needs a whole number"),
        ({"table": 3}, "table is 3, but needs a mapping"),
        ("text", "needs a mapping"),
    ],
)
def test_wrong_blocks_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_structured(Block, values)


@pytest.mark.parametrize("block", ["data", "system", "trainer", "checkpoint"])
def test_a_block_that_became_a_value_is_named(block):
    text = "trainer: {max_steps: 3}\ncheckpoint: {every_n_train_steps: '${trainer.max_steps}'}"
    with pytest.raises(ConfigError, match=f"^{block} is 'x', but needs a mapping of keys"):
        merge_configs(text, cli_args=[f"{block}=x"], from_string=True)


def test_precedence_files_then_overrides_then_keywords():
    cfg = merge_configs(
        "seed: 1\ndata: {a: 1, b: 1, c: 1}",
        "data: {b: 2}",
        cli_args=["data.c=3", "data.new=[1, 2.5]", "seed=7"],
        from_string=True,
        seed=9,
    )
    assert config_to_primitive(cfg) == {
        "seed": 9,
        "data": {"a": 1, "b": 2, "c": 3, "new": [1, 2.5]},
    }


SWAPPED = """
system:
  material_type: no-material
  material: {n_output_dims: 3, color_activation: sigmoid}
  guidance_type: reward-sds-guidance
  guidance:
    guidance_scale: 4.0
    reward_strategy_type: min-max
    reward_strategy: {num_best: 1, num_worst: 1, lambda_best: 0.9}
"""
STRATEGY = "system.guidance.reward_strategy"


@pytest.mark.parametrize(
    ("overrides", "block"),
    [
        ([f"{STRATEGY}_type=softmax"], {}),
        ([f"{STRATEGY}_type=best"], {"num_best": 1}),
        ([f"{STRATEGY}_type=random"], {"num_best": 1, "num_worst": 1, "lambda_best": 0.9}),
        ([f"{STRATEGY}_type=min-max"], {"num_best": 1, "num_worst": 1, "lambda_best": 0.9}),
        ([f"{STRATEGY}.temperature=5", f"{STRATEGY}_type=softmax"], {"temperature": 5}),
        ([f"{STRATEGY}_type=softmax", f"{STRATEGY}.num_best=3"], {"num_best": 3}),
        ([f"{STRATEGY}_type=mean", f"{STRATEGY}=null"], None),
        ([f"{STRATEGY}_type=best", f"{STRATEGY}=null", f"{STRATEGY}.num_best=2"], {"num_best": 2}),
        ([f"{STRATEGY}_type=no-such"], {"num_best": 1, "num_worst": 1, "lambda_best": 0.9}),
        (["system.guidance={reward_strategy_type: softmax}"], {}),
    ],
)
def test_another_component_loses_the_settings_that_it_does_not_have(overrides, block):
    """What the command line sets itself stays, so that mistakes in it are told."""
    load_extensions()
    cfg = config_to_primitive(merge_configs(SWAPPED, cli_args=overrides, from_string=True))
    assert cfg["system"]["guidance"]["reward_strategy"] == block


def test_what_is_lost_is_said_unless_the_block_is_replaced(monkeypatch):
    load_extensions()
    said: list[str] = []
    monkeypatch.setattr("threestudio.utils.swaps.info", said.append)
    later = "system: {guidance: {reward_strategy_type: best, reward_strategy: null}}"
    merge_configs(SWAPPED, later, from_string=True)
    assert said == []
    merge_configs(SWAPPED, cli_args=[f"{STRATEGY}_type=best"], from_string=True)
    assert said == [f"{STRATEGY} loses num_worst, lambda_best, which 'best' does not have."]


def test_a_setting_that_another_one_refers_to_stays_to_be_reported():
    load_extensions()
    referred = """
    data_type: mvdream-random-multiview-camera-datamodule
    data: {n_view: 4, relative_radius: true}
    system: {background: {n_view_share: "${data.n_view}"}}
    """
    swap = ["data_type=random-camera-datamodule"]
    cfg = merge_configs(referred, cli_args=swap, from_string=True)
    assert cfg.data == {"n_view": 4} and cfg.system.background.n_view_share == 4


def test_a_component_that_cannot_be_a_name_is_left_to_the_check():
    cfg = merge_configs(SWAPPED, "system: {material_type: 'a:b:c'}", from_string=True)
    assert cfg.system.material_type == "a:b:c" and len(cfg.system.material) == 2


def test_a_later_yaml_exchanges_components_too_and_flat_blocks_stay():
    load_extensions()
    later = """
    system:
      material_type: diffuse-with-point-light-material
      material: {ambient_only_steps: 5}
      guidance_type: stable-diffusion-guidance
    """
    cfg = config_to_primitive(merge_configs(SWAPPED, later, from_string=True))["system"]
    assert cfg["material"] == {"ambient_only_steps": 5}
    assert cfg["guidance"]["guidance_scale"] == 4.0 and len(cfg["guidance"]) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("min-max", "min-max"),
        ("{x: 1}", {"x": 1}),
        ("red: cube", "red: cube"),
        ("${seed}", 0),
    ],
)
def test_values_of_overrides(text: str, value: Any):
    cfg = merge_configs("seed: 0", cli_args=[f"data.x={text}"], from_string=True)
    assert config_to_primitive(cfg.data.x) == value


@pytest.mark.parametrize("prompt", AWKWARD)
def test_prompts_are_taken_as_typed(prompt: str):
    cfg = merge_configs("seed: 0", cli_args=[f"system.p.prompt={prompt}"], from_string=True)
    assert cfg.system.p.prompt == prompt


def test_a_quoted_prompt_loses_its_quotes():
    cfg = merge_configs("seed: 0", cli_args=['system.p.prompt="a \\"b\\""'], from_string=True)
    assert cfg.system.p.prompt == 'a "b"'


@pytest.mark.parametrize("prompt", AWKWARD)
def test_any_prompt_makes_a_run_folder_one_level_below(prompt: str, tmp_path: Path):
    cfg = load_config(
        "tag: '${rmspace:${system.p.prompt},_}'",
        cli_args=[f"system.p.prompt={prompt}", f"exp_root_dir={tmp_path}", "name=n"],
        from_string=True,
    )
    folder = Path(cfg.trial_dir)
    assert folder.is_dir() and folder.parent == tmp_path / "n"
    assert len(folder.name.encode()) < 255


def test_slug_keeps_ordinary_tags_and_tells_long_ones_apart():
    assert slug("a_red_cube_on_the_left,_4k") == "a_red_cube_on_the_left,_4k"
    assert slug("x" * 500) != slug("x" * 501)
    assert slug("../..") not in ("", ".", "..") and "/" not in slug("/etc")


def test_runs_that_start_in_the_same_second_get_their_own_folders(tmp_path: Path):
    folders = {ExperimentConfig(tag="a", exp_root_dir=str(tmp_path)).trial_dir for _ in range(3)}
    assert len(folders) == 3


def test_a_stored_timestamp_gives_the_same_folder_again(tmp_path: Path):
    first = ExperimentConfig(tag="a", exp_root_dir=str(tmp_path))
    again = ExperimentConfig(tag="a", exp_root_dir=str(tmp_path), timestamp=first.timestamp)
    assert again.trial_dir == first.trial_dir


def test_missing_values_are_listed_with_the_fix():
    yaml = "tag: '${rmspace:${system.p.prompt},_}'\nsystem: {p: {prompt: '???'}, q: '???'}"
    with pytest.raises(ConfigError, match=r"system\.p\.prompt=\.\.\. system\.q=\.\.\."):
        merge_configs(yaml, from_string=True)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("a: ${b}", "`a` cannot be resolved"),
        ("a: ${nothing:1}", "`a` cannot be resolved"),
        ("a: [1", "not valid YAML"),
        ("- 1", "not a mapping"),
    ],
)
def test_broken_yaml(yaml: str, message: str):
    with pytest.raises(ConfigError, match=message):
        merge_configs(yaml, from_string=True)


def test_a_missing_file_shows_its_neighbours(tmp_path: Path):
    (tmp_path / "blocks.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="Did you mean .*blocks.yaml"):
        merge_configs(str(tmp_path / "block.yaml"))


def test_a_stray_word_on_the_command_line_is_explained():
    with pytest.raises(ConfigError, match="'cube' is neither a flag nor an override"):
        merge_configs("a: 1", cli_args=["cube"], from_string=True)


def test_resolvers():
    yaml = """
    a: ${add:1,2}
    b: ${mul:${a},2}
    c: ${idiv:7,2}
    d: ${div:7,2}
    e: ${rmspace:a b c,_}
    f: ${cmaxgt0:[0, 0.0, 1.0, 10]}
    g: ${calc_exp_lr_decay_rate:0.01,2}
    h: ${not:${gt0:-1}}
    """
    cfg = merge_configs(yaml, from_string=True)
    assert list(cfg.values()) == [3, 6, 3, 3.5, "a_b_c", True, pytest.approx(0.1), True]


def test_c_max_is_the_largest_value_not_the_largest_step():
    assert C_max(3) == 3
    assert C_max([0.5, 0.2, 100]) == 0.5
    assert C_max([50, 0.5, 0.2, 100, 0.7, 200]) == 0.7
