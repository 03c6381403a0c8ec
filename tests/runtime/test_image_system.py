"""Images without a scene: their starts, their batch, and the system's files, on a toy guidance."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.runtime import toys
from tests.runtime.comparing import assert_equal
from threestudio.data.image import ImageDataModule
from threestudio.registry import find, register
from threestudio.run import run
from threestudio.utils.checkpoints import read_checkpoint
from threestudio.utils.config_check import config_faults
from threestudio.utils.errors import ConfigError
from threestudio.utils.random import stream

LATENT, SIZE = (2, 3, 3), 6
KNOWN = {"latent_shape": LATENT, "picture_size": SIZE, "to_latents": lambda x: x[:, :2, ::2, ::2]}


@register("toy-image-guidance")
class ToyImageGuidance(toys.ToyGuidance):
    """Wants each image to be a colour that its seed and the step give; latents are two channels."""

    @dataclass
    class Config(toys.ToyGuidance.Config):
        n_view: int = 1

    latent_shape, picture_size = LATENT, SIZE

    def forward(self, rgb: torch.Tensor, prompt_utils: Any, **batch: Any) -> dict[str, Any]:
        targets = [
            torch.rand(rgb.shape[-1], generator=stream("noise", self.step, seed=seed))
            for seed in batch["scene_seeds"].tolist()
        ]
        target = torch.stack(targets)[:, None, None].to(rgb)
        return {"loss_sds": ((rgb - target) ** 2).sum() / len(rgb)}

    @staticmethod
    def to_latents(pictures: torch.Tensor) -> torch.Tensor:
        return KNOWN["to_latents"](pictures)

    @staticmethod
    def to_pictures(latents: torch.Tensor) -> torch.Tensor:
        rgb = torch.cat([latents, latents[:, :1]], dim=1)
        return rgb.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def config(root: Path, seeds: Any = (3, 5), optimizer: Any = None, **image: Any) -> dict[str, Any]:
    made = toys.config(root)
    kept = ("prompt_processor_type", "prompt_processor", "loss", "optimizer")
    made["data_type"], made["data"] = "image-datamodule", {"seeds": list(seeds)}
    made["system_type"] = "image-system"
    made["system"] = {name: made["system"][name] for name in kept} | {
        "image_type": image.pop("image_type", "latent-parameter"),
        "image": {"seeds": list(seeds), **image},
        "guidance_type": "toy-image-guidance",
        "loss": {"lambda_sds": 1.0},
    }
    made["system"]["optimizer"] = optimizer or {"name": "Adam", "args": {"lr": 0.05}}
    return made


def write(root: Path, **changes: Any) -> str:
    path = root / "image.yaml"
    path.write_text(yaml.safe_dump(config(root / "out", **changes)))
    return str(path)


def image(kind: str = "latent-parameter", **settings: Any) -> Any:
    return find(kind)({"seeds": [3, 5], **settings}, **KNOWN)


@pytest.mark.parametrize("kind", ["latent-parameter", "image-parameter"])
def test_noise_follows_the_seed_of_an_image_and_nothing_else(kind: str):
    both = image(kind).values
    assert torch.equal(image(kind, seeds=[5]).values[0], both[1])
    assert not torch.equal(both[0], both[1])
    small = image(kind, init_std=0.01).values
    assert small.std() < 0.1 * both.std()


def test_shapes_and_ranges():
    latents, pixels = image()(), image("image-parameter", init="zeros")()
    assert latents.shape == (2, 3, 3, 2) and pixels.shape == (2, SIZE, SIZE, 3)
    assert torch.equal(pixels, torch.full_like(pixels, 0.5)), "zeros are grey"
    assert image("image-parameter", size=4)().shape == (2, 4, 4, 3)
    assert not image(init="zeros")().any()


def test_a_picture_is_where_it_starts(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    start = {"init": "picture", "picture": str(tmp_path / "a.png")}
    pixels = image("image-parameter", **start)()
    expected = torch.from_numpy(values).float() / 255
    torch.testing.assert_close(pixels, expected.expand_as(pixels))
    rgb = expected.permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    torch.testing.assert_close(image(**start).values.data, KNOWN["to_latents"](rgb))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "picture"}, "'picture', but there is none"),
        ({"init": "picture", "picture": "no.png"}, "no such file"),
        ({"init": "nose"}, "must be one of noise, zeros, picture"),
        ({"seeds": []}, "is empty, so no image is made"),
        ({"seeds": 3}, "must be a list of whole numbers"),
        ({"seeds": [1, -1]}, "contains -1"),
        ({"init_std": -1.0}, "must be 0 or more"),
    ],
)
def test_faults_of_an_image(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        image(**settings)


def test_every_batch_has_all_images_at_the_front():
    data = ImageDataModule({"seeds": [7, 8, 9]})
    batches = iter(data.train_dataloader())
    for batch in (next(batches), next(batches), *data.val_dataloader(), *data.test_dataloader()):
        assert batch["scene_seeds"].tolist() == [7, 8, 9]
        assert batch["index"].tolist() == [0, 1, 2] and not batch["azimuth"].any()
    with pytest.raises(ValueError, match="`data.seeds` is empty"):
        ImageDataModule({"seeds": []})


def test_the_run_leaves_pictures_a_grid_and_a_video(tmp_path: Path):
    made = run(write(tmp_path))
    save = Path(made.trial_dir, "save")
    sizes = {name: Image.open(save / name).size for name in ("it6-test/0.png", "it6-test/1.png")}
    assert set(sizes.values()) == {(SIZE, SIZE)}
    assert Image.open(save / "it6.png").size == (2 * SIZE, SIZE)
    assert {path.name for path in save.glob("it?.png")} == {"it0.png", "it4.png", "it6.png"}
    assert (save / "it6-test.mp4").stat().st_size > 0
    described = json.loads((save / "it6-test/images.json").read_text())
    assert [(d["file"], d["prompt"], d["seed"]) for d in described] == [
        ("0.png", "a cube", 3),
        ("1.png", "a cube", 5),
    ]
    pictures = made.system.pictures()
    saved = torch.from_numpy(np.array(Image.open(save / "it6-test/1.png"))) / 255
    torch.testing.assert_close(saved, pictures[1], atol=0.51 / 255, rtol=0)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_an_image_made_alone_is_the_one_of_the_batch(optimizer: str, tmp_path: Path):
    settings = {"name": optimizer, "args": {"lr": 0.05}}
    both = run(write(tmp_path, optimizer=settings)).system.image.values
    (tmp_path / "alone").mkdir()
    alone = run(write(tmp_path / "alone", seeds=(5,), optimizer=settings)).system.image.values
    assert torch.equal(alone[0], both[1])


@pytest.mark.parametrize("kind", ["latent-parameter", "image-parameter"])
def test_resuming_equals_the_uninterrupted_run(kind: str, tmp_path: Path):
    path = write(tmp_path, image_type=kind)
    whole = run(path, ["trainer.max_steps=5"])
    expected = read_checkpoint(f"{whole.trial_dir}/ckpts/last.ckpt")
    run(path, ["trainer.max_steps=3", "tag=half"])
    last = tmp_path / "out/toy/half/ckpts/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 3
    run(path, ["trainer.max_steps=5", "tag=half", f"resume={last}"])
    found = read_checkpoint(last)
    assert_equal(found["state_dict"], expected["state_dict"], "state_dict")
    assert_equal(found["optimizer_states"], expected["optimizer_states"], "optimizer")


def test_export_and_test_make_the_pictures_again(tmp_path: Path):
    made = run(write(tmp_path))
    resume = [f"resume={made.trial_dir}/ckpts/last.ckpt"]
    save = Path(made.trial_dir, "save")
    before = (save / "it6-test/0.png").read_bytes()
    (save / "it6-test/0.png").unlink()
    run(f"{made.trial_dir}/configs/parsed.yaml", resume, mode="test")
    run(f"{made.trial_dir}/configs/parsed.yaml", resume, mode="export")
    assert (save / "it6-test/0.png").read_bytes() == before
    assert (save / "it6-export/0.png").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_type": ""}, "system.image_type is not set"),
        ({"guidance_type": ""}, "system.guidance_type is not set"),
        ({"prompt_processor": {"prompts": ["a"]}}, "1 prompts, but there are 2 images"),
        ({"loss": {"lambda_sd": 1.0}}, "no key `lambda_sd`. Did you mean"),
    ],
)
def test_faults_of_the_system(change: dict, message: str, tmp_path: Path):
    made = config(tmp_path)
    made["tag"] = "x"
    made["system"] |= change
    assert any(message in fault for fault in config_faults(made))


@pytest.mark.parametrize("prompts", ["a red cube", 7])
def test_prompts_that_are_no_list_are_not_counted(prompts: Any, tmp_path: Path):
    made = config(tmp_path) | {"tag": "x", "checkpoint": {}}
    made["system"] |= {
        "prompt_processor_type": "dummy-prompt-processor",
        "prompt_processor": {"prompts": prompts},
    }
    message = f"system.prompt_processor.prompts is {prompts!r}, but needs a list of texts or null."
    assert config_faults(made) == [message]


def test_a_guidance_that_knows_no_size_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not say how large its images are"):
        run(write(tmp_path), ["system.guidance_type=toy-guidance", "system.guidance.n_view=1"])
