"""Every committed YAML: right as it stands, and it trains, resumes and tests in this process."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.configs.yamls import FIRST_STAGES, ROOT, logged, tiny
from tests.end_to_end import tiny_world
from tests.helpers.doubles import extension
from threestudio.run import run
from threestudio.utils.config import merge_configs
from threestudio.utils.config_check import config_faults

SHRINKERS = {
    "volume": ["tiny-blocks"],
    "gaussians": ["tiny-blocks-gaussians"],
    "image": ["tiny-blocks-image"],
    "pixels": ["tiny-blocks", "tiny-if"],
}
"""What replaces the models and sizes of a YAML for real models, by what it trains."""
CONFIGS = sorted(
    path
    for pattern in ("configs/*.yaml", "custom/*/configs/*.yaml")
    for path in ROOT.glob(pattern)
    if not path.stem.startswith("tiny-")
)
COST = re.compile(
    r"# Cost: (unknown:|[^\n]*\b(second|minute|hour)s?\b[^\n]* on [^\n]*\b(CPU core|[A-Z]\d+))"
)
"""A duration and a device, or that nothing is known."""
Starter = Callable[[str], list[str]]
"""Of a YAML's name, the overrides that start it from the stage before."""


def test_there_are_configs():
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_right_and_says_what_it_is(path: Path, world: dict[str, str], tmp_path: Path):
    paths = [text for text in tiny(path, world, tmp_path) if "_path=" in text or "source_" in text]
    prompt = ["system.prompt_processor.prompt=a cube"]
    if path.stem in FIRST_STAGES:
        prompt.append("system.geometry_convert_from=null")
    merged = merge_configs(str(path), cli_args=[*paths, *prompt])
    assert config_faults(OmegaConf.to_container(merged)) == []
    header = path.read_text().split("\nname:")[0]
    for word in ("Reproduces:", "Command:"):
        assert word in header
    assert COST.search(header)


def kind(path: Path) -> str:
    """Tell what a YAML trains: a "volume", "gaussians", an "image", or "pixels" of DeepFloyd IF."""
    config = OmegaConf.load(path)
    if config.system_type == "image-system":
        return "image"
    if config.system.geometry_type == "gaussian-splatting":
        return "gaussians"
    is_pixels = config.system.prompt_processor_type == "deep-floyd-prompt-processor"
    return "pixels" if is_pixels else "volume"


@pytest.fixture
def assets(tmp_path: Path) -> None:
    """Put the embedded models where a run from the repository's root finds them."""
    (tmp_path / "load").symlink_to(ROOT / "load")


def as_a_user(path: Path) -> tuple[list[str], list[str]]:
    """Return YAMLs and overrides for seconds on a CPU, of a YAML for real models."""
    overrides = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    overrides.append("system.prompt_processor.prompt=a red cube on the left of a blue sphere")
    if kind(path) == "pixels":
        extension("tiny_deep_floyd").main(["outputs/tiny-if/model"])
    config = OmegaConf.to_container(OmegaConf.load(path))["system"]
    if config.get("geometry_type") == "implicit-volume":
        overrides.append("system.geometry.isosurface_threshold=auto")
    if "source_image" in config["guidance"]:
        tiny_world.save_picture(Path("cat.png"))
        overrides += ["system.guidance.source_image=cat.png"]
        overrides += ["system.guidance.source_prompt=a green cube"]
    shrinkers = [f"{ROOT}/configs/{name}.yaml" for name in SHRINKERS[kind(path)]]
    return [str(path), *shrinkers], overrides


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if kind(path) == "gaussians"], ids=lambda path: path.stem
)
def test_gaussians_start_inside_of_their_box(path: Path):
    geometry = OmegaConf.load(path).system.geometry
    assert 0 < geometry.pc_init_radius <= geometry.radius


@pytest.mark.slow
def test_vsd_trains_in_the_system_of_dreamfusion(world: dict[str, str], tmp_path: Path):
    """No YAML has the two together."""
    path = ROOT / "custom/threestudio-reward-sds/configs/sd21-nerf-reward-vsd.yaml"
    made = run(str(path), [*tiny(path, world, tmp_path), "system_type=dreamfusion-system"])
    assert made.system.cfg.guidance_type == "reward-vsd-guidance"
    for column in ("train/loss_vsd", "train/loss_lora"):
        values = logged(made.trial_dir, column)
        assert len(values) == 3 and min(values) > 0
    state = made.system.state_dict()
    outer = [tensor for name, tensor in state.items() if "lora_B" in name]
    assert outer and all(tensor.any() for tensor in outer), "they start at 0"


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_resumes_tests_and_exports(
    path: Path, world: dict[str, str], started: Starter, assets: None, tmp_path: Path
):
    """Real models have the stand-ins that users have, the blocks tiny random ones."""
    is_real = not path.stem.startswith("blocks")
    if is_real:
        half, (paths, short) = 1, as_a_user(path)
    else:
        half, paths, short = 2, [str(path)], tiny(path, world, tmp_path / "out")
    short += [*started(path.stem), f"trainer.max_steps={2 * half}"]
    short += [f"checkpoint.every_n_train_steps={half}", "checkpoint.save_top_k=-1"]
    first = run(paths, short)
    if is_real:
        assert Path(first.trial_dir).is_relative_to(f"outputs/tiny-blocks/{path.stem}")
    whole = {name: value.clone() for name, value in first.system.state_dict().items()}
    assert all(value.isfinite().all() for value in whole.values())
    parsed = f"{first.trial_dir}/configs/parsed.yaml"
    (halfway,) = Path(first.trial_dir, "ckpts").glob(f"*step={half}.ckpt")
    saved = torch.load(halfway)["state_dict"]
    assert any(not torch.equal(value, whole[name]) for name, value in saved.items())
    second = run(parsed, [f"resume={halfway}"])
    resumed = second.system.state_dict()
    assert not [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
    assert len(logged(second.trial_dir)) == half
    save, end = Path(second.trial_dir, "save"), f"it{2 * half}"
    assert (save / f"{end}-test.mp4").is_file()
    assert (save / (f"{end}.png" if kind(path) == "image" else f"{end}-0.png")).is_file()
    if "reward" in path.stem:
        assert list(save.glob("*candidates.png"))
    (save / f"{end}-test.mp4").unlink()
    run(parsed, [f"resume={second.trial_dir}/ckpts/last.ckpt"], mode="test")
    assert (save / f"{end}-test.mp4").is_file()
    run(parsed, [f"resume={second.trial_dir}/ckpts/last.ckpt"], mode="export")
    exported = save / f"{end}-export"
    assert (exported / ("0.png" if kind(path) == "image" else "model.obj")).is_file()


@pytest.mark.slow
def test_the_aesthetic_reward_of_a_yaml_trains(world: dict[str, str], tmp_path: Path):
    """The one reward of a YAML that neither the embedded one nor test_upstream stands for."""
    (path,) = (path for path in CONFIGS if path.stem == "mvdream-sd21-reward-sds-aesthetic")
    made = run(str(path), [*tiny(path, world, tmp_path / "out"), "trainer.max_steps=2"])
    assert logged(made.trial_dir, "train/candidates") == [7, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs_on_cuda_and_starts_as_on_a_cpu(
    path: Path, world: dict[str, str], started: Starter, tmp_path: Path
):
    """All draws are made on the CPU: only rounding differs, and the first loss hardly does."""
    short = tiny(path, world, tmp_path / "out") + started(path.stem)
    short += ["trainer.max_steps=4", "checkpoint.every_n_train_steps=2", "checkpoint.save_top_k=-1"]
    slow = run(str(path), [*short, "tag=cpu"])
    fast = run(str(path), [*short, "trainer.accelerator=gpu", "tag=cuda"])
    assert {value.device.type for value in fast.system.parameters()} <= {"cuda", "cpu"}
    assert all(value.isfinite().all() for value in fast.system.state_dict().values())
    assert logged(fast.trial_dir)[0] == pytest.approx(logged(slow.trial_dir)[0], rel=0.02)
    (halfway,) = Path(fast.trial_dir, "ckpts").glob("*step=2.ckpt")
    parsed = f"{fast.trial_dir}/configs/parsed.yaml"
    again = run(parsed, [f"resume={halfway}"])
    assert len(logged(again.trial_dir)) == 2
    run(parsed, [f"resume={again.trial_dir}/ckpts/last.ckpt"], mode="export")
    save = Path(again.trial_dir, "save")
    assert (save / "it4-export" / ("1.png" if kind(path) == "image" else "model.obj")).is_file()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["blocks-mvdream-vsd", "blocks-mvdream-reward-vsd"])
def test_vsd_in_half_precision_stays_finite_on_cuda(name: str, assets: None):
    """A run stops with an error at the first gradient that is not."""
    (path,) = (path for path in CONFIGS if path.stem == name)
    prompt = "system.prompt_processor.prompt=a yellow cube under a purple cone"
    made = run(str(path), [prompt, "trainer.enable_progress_bar=false", "data.n_test_views=1"])
    assert len(logged(made.trial_dir)) > 1 and made.system.global_step == 200
