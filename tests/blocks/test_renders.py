"""Intersections, layers and colouring of blocks scenes."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.data.multiview import RandomMultiviewCameraDataModuleConfig

solids = importlib.import_module("threestudio-blocks.solids")
renders = importlib.import_module("threestudio-blocks.renders")
captions = importlib.import_module("threestudio-blocks.captions")
batches = importlib.import_module("threestudio-blocks.batches")


def shoot(shape, origin, direction, size=1.0, center=(0.0, 0.0, 0.0)):
    rays = [torch.tensor(v).view(1, 1, 3) for v in (origin, direction)]
    distance, normal = solids.intersect(
        shape, *rays, torch.tensor([center]), torch.tensor([size]), torch.zeros(1)
    )
    return distance.item(), normal[0, 0].tolist()


@pytest.mark.parametrize(
    ("shape", "surface"),
    [("sphere", 1.0), ("cube", 0.72), ("cylinder", 0.66), ("cone", 0.40), ("torus", None)],
)
def test_a_ray_along_x_meets_the_near_side(shape, surface):
    """From x = 3 towards the centre: a cone is half as wide at half height, a torus facing x has
    a hole."""
    distance, normal = shoot(shape, (3.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    if surface is None:
        assert math.isinf(distance)
    else:
        assert distance == pytest.approx(3 - surface, abs=1e-4)
        assert normal[0] > 0.8


def test_a_ray_through_the_ring_of_the_torus_meets_its_tube():
    distance, normal = shoot("torus", (3.0, 0.66, 0.0), (-1.0, 0.0, 0.0))
    assert distance == pytest.approx(3 - 0.27, abs=1e-3)
    assert normal == pytest.approx([1.0, 0.0, 0.0], abs=1e-2)


@pytest.mark.parametrize("shape", captions.SHAPES)
def test_size_and_centre_scale_and_move_the_solid(shape):
    distance, _ = shoot(shape, (0.0, 0.5, 4.0), (0.0, 0.0, -1.0), size=0.5, center=(0.0, 0.5, 1.0))
    top = 1.0 + 0.5 * solids.HALF_HEIGHT[shape]
    assert distance == pytest.approx(4.0 - top, abs=2e-3)


def canonical(texts):
    scenes = renders.scenes_of(
        [captions.parse_caption(text) for text in texts], torch.Generator().manual_seed(0)
    )
    cameras = renders.canonical_cameras(0, len(texts))
    return renders.render_layers(scenes, cameras["rays_o"], cameras["rays_d"])


def center_of(mask):
    rows, columns = mask.float().sum(1), mask.float().sum(0)
    ruler = torch.arange(64.0)
    return (ruler * columns).sum() / columns.sum(), (ruler * rows).sum() / rows.sum()


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("on the left of", 0, -1), ("on the right of", 0, 1), ("on top of", 1, -1), ("under", 1, 1)],
)
def test_relations_hold_in_the_front_view_and_left_and_right_swap_in_the_back(relation, axis, sign):
    layers = canonical([f"a red cube {relation} a blue sphere"])[0]
    front, back = layers[0], layers[2]
    offset = center_of(front[0])[axis] - center_of(front[2])[axis]
    assert offset.sign() == sign and offset.abs() > 8
    mirrored = center_of(back[0])[axis] - center_of(back[2])[axis]
    assert mirrored.sign() == (-sign if axis == 0 else sign)


def test_a_single_solid_is_centred_and_has_no_second_layer():
    layers = canonical(["a green cone"])[0]
    assert layers[:, 2:].sum() == 0
    column, row = center_of(layers[0, 0])
    assert abs(column - 32) < 6 and abs(row - 32) < 10


def test_compose_puts_colours_and_background_where_the_layers_say():
    layers = torch.zeros(4, 2, 2, dtype=torch.uint8)
    layers[0, 0, 0], layers[1, 0, 0] = 255, 255
    layers[2, 1, 1], layers[3, 1, 1] = 255, 128
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    image = renders.compose(layers, colors, torch.tensor([0.2, 0.2, 0.2]))
    assert image[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert image[:, 1, 1].tolist() == pytest.approx([0.0, 128 / 255, 0.0])
    assert image[:, 0, 1].tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_the_cached_set_is_the_same_when_made_again_and_other_for_another_seed(tmp_path):
    first = renders.load_or_render(tmp_path / "a", 6, seed=3)
    again = renders.load_or_render(tmp_path / "b", 6, seed=3)
    other = renders.load_or_render(tmp_path / "a", 6, seed=4)
    assert (first.layers == again.layers).all()
    assert (first.layers != other.layers).any()
    spread = (first.azimuth_deg - first.azimuth_deg[:, :1]) % 360
    assert spread[0].sort().values.tolist() == pytest.approx([0, 90, 180, 270], abs=1e-3)


def test_training_batches_never_show_a_pair_of_another_split(tmp_path):
    data = renders.load_or_render(tmp_path, 24, seed=5)
    allowed = {frozenset(pair) for pair in captions.pair_splits()["train"]}
    batch = batches.random_batch(data, 64, torch.Generator().manual_seed(0))
    pairs = [c for c in batch.captions if c.second is not None]
    assert len(pairs) > 32
    assert all(frozenset((c.first, c.second)) in allowed for c in pairs)
    singles = {c.first for c in batch.captions if c.second is None}
    assert singles <= set(captions.single_splits()["train"])
    assert batch.images.shape == (64, 4, 3, 64, 64)
    assert 0 <= batch.images.min() and batch.images.max() <= 1


@pytest.mark.parametrize("name", ["blocks-mvdream-sds", "blocks-mvdream-reward-sds"])
def test_the_configs_have_the_cameras_that_the_models_were_trained_on(name):
    folder = Path(__file__).resolve().parents[2] / "custom" / "threestudio-reward-sds" / "configs"
    data = OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml"))["data"]
    defaults = vars(RandomMultiviewCameraDataModuleConfig(batch_size=4, n_view=4))
    for key, value in renders.CAMERA.items():
        assert list_of(data.get(key, defaults[key])) == list_of(value), key


def list_of(value):
    return list(value) if isinstance(value, (list, tuple)) else value
