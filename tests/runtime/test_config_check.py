"""All faults at once, each with its path and the fix, before anything is built."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.runtime import toys
from threestudio.registry import register, restore, snapshot
from threestudio.utils.config_check import check_config, config_faults
from threestudio.utils.errors import ConfigError


def faults(**changes: Any) -> list[str]:
    """Return the faults of the toy config with dotted changes (`system__geometry__size=9`)."""
    config = toys.config(Path("out"))
    config["tag"] = "a_cube"
    config["checkpoint"]["every_n_train_steps"] = 6
    for path, value in changes.items():
        *parents, key = path.split("__")
        block = config
        for parent in parents:
            block = block[parent]
        block[key] = value
    return config_faults(config)


def image_faults(data: Any, image: Any, **changes: Any) -> list[str]:
    """Return the faults of a system of images, with changes of its keys."""
    system = {
        "image_type": "latent-parameter",
        "image": image,
        "guidance_type": "toy-guidance",
        "guidance": {"n_view": 1},
        "prompt_processor_type": "dummy-prompt-processor",
        "loss": {"lambda_sds": 1.0},
        "optimizer": {"name": "Adam", "args": {"lr": 0.1}},
        **changes,
    }
    return faults(
        data_type="image-datamodule", data=data, system_type="image-system", system=system
    )


def test_a_right_config_has_none():
    assert faults() == []
    check_config(OmegaConf.create(toys.config(Path("out"))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 1}, "sede is not a known key. Did you mean `seed`?"),
        ({"seed": "one"}, "seed is 'one', but needs a whole number."),
        (
            {"data_type": "toy-date"},
            "data_type: Unknown component 'toy-date'. Did you mean 'toy-data'",
        ),
        ({"system_type": ""}, "system_type is not set."),
        ({"system__optimizer": {}}, "system.optimizer is not set, so nothing would be trained."),
        ({"system__geometry_type": "toy-geometri"}, "system.geometry_type: Unknown component"),
        ({"system__geometry_type": "a:b:c"}, "system.geometry_type: 'a:b:c' is not a component"),
        ({"system__geometry_type": ""}, "system.geometry_type is not set"),
        ({"system__guidance_type": ""}, "system.guidance_type is not set"),
        (
            {"system__geometry__raduis": 1},
            "system.geometry.raduis is not a known key. Did you mean",
        ),
        (
            {"system__geometry__radius": "big"},
            "system.geometry.radius is 'big', but needs a number.",
        ),
        ({"system__geometry__size": 9}, "system.geometry: `size` is 9, allowed are 1 to 8."),
        ({"system__geometry": 3}, "system.geometry is 3, but needs a mapping"),
        ({"system__loss__lambda_sds": [1, 2]}, "system.loss.lambda_sds: .* has 2 entries"),
        (
            {"system__loss__lambda_sparsty": 1},
            "no key `lambda_sparsty`. Did you mean `lambda_sparsity`",
        ),
        ({"system__optimizer__name": "Adm"}, "system.optimizer.name: .*Did you mean `Adam`"),
        ({"system__optimizer__args__betas": 10}, "system.optimizer.args: Adam refuses .*betas.*10"),
        ({"system__optimizer__params__geometry__lr": -1}, "params.geometry: Adam refuses"),
        ({"system__optimizer__params": 3}, "system.optimizer.params needs a mapping"),
        ({"system__loggers": {"wandb": 1}}, "system.loggers.wandb needs a mapping"),
        ({"system__optimizer__args__lrr": 1}, "system.optimizer.args: Adam has no argument `lrr`"),
        (
            {"system__optimizer__params__geometry": 3},
            "system.optimizer.params.geometry needs a mapping",
        ),
        ({"trainer__max_step": 1}, "trainer.max_step is not a known key. Did you mean `max_steps`"),
        ({"trainer__max_steps": "ten"}, "trainer.max_steps is 'ten'"),
        ({"trainer__max_steps": -1}, "max_steps is not set, and the camera data never ends"),
        (
            {"trainer__max_steps": -5, "checkpoint__every_n_train_steps": -5},
            "trainer.max_steps is -5, but needs a whole number, 0 or more",
        ),
        ({"trainer__num_sanity_val_steps": {}}, "num_sanity_val_steps is {}, but needs a whole"),
        ({"trainer__enable_progress_bar": 3}, "enable_progress_bar is 3, but needs true or false"),
        ({"trainer__val_check_interval": 0}, "val_check_interval is 0, but needs a number of step"),
        ({"checkpoint__save_lost": 1}, "checkpoint.save_lost is not a known key"),
        ({"checkpoint__rolling_every_n_steps": 0}, "rolling_every_n_steps is 0"),
        ({"trainer": "x"}, "trainer is 'x', but needs a mapping"),
        ({"checkpoint": "x"}, "checkpoint is 'x', but needs a mapping"),
        ({"trainer__precision": "fp16"}, "trainer.precision is 'fp16'; it is one of 32-true"),
        ({"trainer__accumulate_grad_batches": 2}, "accumulate_grad_batches is 2.*not supported"),
        ({"checkpoint__save_top_k": -2}, "checkpoint: .*save_top_k"),
        ({"checkpoint__every_n_train_steps": "x"}, "every_n_train_steps is 'x'"),
        ({"seed": -1}, "seed is -1, but needs a whole number from 0 to"),
        ({"seed": [1, 2]}, r"seed is \[1, 2\], but needs a whole number\."),
        ({"system__loggers": {"wandb": {"enable": True}}}, "wandb is not installed"),
        ({"tag": ""}, "`tag` is empty and `use_timestamp` is false"),
    ],
)
def test_each_fault_alone(change: dict[str, Any], message: str):
    found = faults(**change)
    assert len(found) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0])


@pytest.fixture
def registry():
    """Undo the registrations of a test."""
    state = snapshot()
    yield
    restore(state)


def multi_view(
    data: dict[str, Any],
    guidance: dict[str, Any],
    data_type: str = "mvdream-random-multiview-camera-datamodule",
) -> list[str]:
    """Return the faults of a multi-view data block and the block of a guidance with a prior."""

    @register("toy-multi-view-prior")
    class Prior:
        @dataclass
        class Config:
            n_view: int = 4

    @register("toy-single-view-prior")
    class SingleViewPrior:
        @dataclass
        class Config:
            chunk_size: int = 4

    @register("toy-prior-guidance")
    class Guidance(toys.ToyEmpty):
        @dataclass
        class Config:
            prior_type: str = "toy-single-view-prior"

        @classmethod
        def config_faults(cls, cfg: dict[str, Any]) -> list[str]:
            return []

    return faults(
        data_type=data_type,
        data=data,
        system__guidance_type="toy-prior-guidance",
        system__guidance=guidance,
    )


@pytest.mark.parametrize(
    ("data", "guidance", "message"),
    [
        ({"n_view": 4}, {"prior_type": "toy-multi-view-prior"}, None),
        ({"n_view": 2}, {}, None),
        ({"n_view": 2}, {"prior_type": "toy-multi-view-prior", "n_view": 2}, None),
        ({"n_view": 2}, {"prior_type": "toy-multi-view-prior"}, "n_view is 2.*n_view is 4"),
        ({}, {"prior_type": "toy-multi-view-prior"}, "n_view is 1.*n_view is 4"),
        (
            {"n_view": 4},
            {"prior_type": "toy-multi-view-prior", "prior": {"n_view": 2}},
            "n_view is 4.*n_view is 2",
        ),
    ],
)
def test_views_of_data_and_prior_are_compared(registry, data, guidance, message):
    found = multi_view({"batch_size": 4, **data}, guidance)
    assert len(found) == (0 if message is None else 1), found
    if message is not None:
        assert re.search(message, found[0]), found


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"seeds": [7, 8]}, None),
        ({}, "data.seeds has 2 seeds, but system.image.seeds has 1.*seeds: .{data.seeds}"),
        ({"seeds": [7, 8, 9]}, "has 2 seeds, but system.image.seeds has 3"),
    ],
)
def test_seeds_of_data_and_images_are_compared(image, message):
    found = image_faults({"seeds": [1, 2]}, image)
    assert len(found) == (0 if message is None else 1), found
    if message is not None:
        assert re.search(message, found[0]), found


@pytest.mark.parametrize("init", ["noise", "picture"])
def test_pictures_that_are_edited_are_counted(init, tmp_path, monkeypatch):
    """And what is wrong with them is told once, though the images start from the same."""
    monkeypatch.setattr(toys.ToyGuidance, "config_faults", lambda block: [], raising=False)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    two, seeds = [str(tmp_path / "a.png")] * 2, [1, 2, 3]
    image, guidance = {"init": init, "picture": two}, {"n_view": 1, "source_image": two}
    (found,) = image_faults({"seeds": seeds}, {**image, "seeds": seeds}, guidance=guidance)
    assert found.startswith("`system.guidance.source_image` has 2 pictures for 3 images")
    seeds = seeds[:2]
    assert image_faults({"seeds": seeds}, {**image, "seeds": seeds}, guidance=guidance) == []


def test_seeds_that_are_no_list_are_one_fault_whatever_the_prompts():
    prompts = {"prompts": ["a", "b"]}
    found = image_faults({"seeds": 3}, {"seeds": 3}, prompt_processor=prompts)
    assert found == ["`data.seeds` is 3; it must be a list of whole numbers, one for each image."]


def test_a_missing_picture_is_not_taken_for_a_missing_source():
    (found,) = image_faults({"seeds": [1]}, {"seeds": [1], "init": "picture"})
    assert "Set `system.image.picture` to a file" in found


@pytest.mark.parametrize("data_type", ["random-camera-datamodule", "image-datamodule"])
def test_a_multi_view_prior_needs_data_with_views(registry, data_type):
    block = {"prior_type": "toy-multi-view-prior"}
    (fault,) = multi_view({}, block, data_type)
    assert f"takes 4 views of a scene at once (system.guidance.n_view), but '{data_type}'" in fault
    assert "'mvdream-random-multiview-camera-datamodule' and data.n_view to 4" in fault
    for fine in ({}, {**block, "n_view": 1}):
        assert multi_view({}, fine, data_type) == []


def test_lists_are_no_numbers_for_the_runtimes_own_settings():
    found = faults(
        data_type="random-camera-datamodule",
        data={"n_test_views": [4]},
        system__guidance={"n_view": 1},
        system__geometry_type="volume-grid",
        system__geometry={"radius": [1, 2]},
    )
    assert found == [
        "data.n_test_views is [4], but needs a whole number.",
        "system.geometry.radius is [1, 2], but needs a number.",
    ]


def test_all_faults_are_in_one_error():
    config = toys.config(Path("out"), geometry={"raduis": 1, "size": "x"}, renderer_type="none")
    config["trainer"]["max_step"] = 3
    config["tag"] = "a_cube"
    with pytest.raises(ConfigError) as caught:
        check_config(OmegaConf.create(config))
    text = str(caught.value)
    assert "4 faults" in text
    for part in ("raduis", "system.geometry.size", "'none'", "max_step"):
        assert part in text


def test_a_component_may_examine_its_block_itself():
    state = snapshot()

    @register("toy-flat-guidance")
    class Flat(toys.ToyGuidance):
        @classmethod
        def config_faults(cls, cfg: dict[str, Any]) -> list[str]:
            return [f"{key} is odd" for key in cfg]

    try:
        found = faults(system__guidance_type="toy-flat-guidance", system__guidance={"x": 1, "y": 2})
    finally:
        restore(state)
    assert found == ["system.guidance: x is odd", "system.guidance: y is odd"]


def test_a_default_part_that_nobody_asked_for_is_not_looked_up():
    """`exporter_type` is mesh-exporter by default, which need not exist for a training."""
    assert not any("exporter" in fault for fault in faults())
