"""Random camera batches: what a scene shares, ranges, stages, repeatability."""

import pytest
import torch

from threestudio.data.multiview import (
    RandomMultiviewCameraDataModule,
    RandomMultiviewCameraDataModuleConfig,
    RandomMultiviewCameraIterableDataset,
)
from threestudio.data.uncond import (
    RandomCameraDataModule,
    RandomCameraDataModuleConfig,
    RandomCameraDataset,
    RandomCameraIterableDataset,
)
from threestudio.utils.config import parse_structured

SMALL = {"height": 4, "width": 6}


def single(**settings):
    cfg = parse_structured(RandomCameraDataModuleConfig, {**SMALL, **settings})
    return RandomCameraIterableDataset(cfg)


def multi(**settings):
    settings = {"batch_size": 8, "n_view": 4, **SMALL, **settings}
    return RandomMultiviewCameraIterableDataset(
        parse_structured(RandomMultiviewCameraDataModuleConfig, settings)
    )


def many(dataset, key, batches=200):
    return torch.cat([dataset.collate([])[key] for _ in range(batches)])


def test_batch_has_the_documented_keys_and_shapes():
    batch = single(batch_size=3).collate([])
    shapes = {k: tuple(v.shape) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        "rays_o": (3, 4, 6, 3),
        "rays_d": (3, 4, 6, 3),
        "mvp_mtx": (3, 4, 4),
        "proj_mtx": (3, 4, 4),
        "c2w": (3, 4, 4),
        "camera_positions": (3, 3),
        "light_positions": (3, 3),
        "elevation": (3,),
        "azimuth": (3,),
        "camera_distances": (3,),
        "fovy": (3,),
    }
    assert (batch["height"], batch["width"]) == (4, 6)


def test_views_of_a_scene_share_everything_but_the_azimuth():
    batch = multi().collate([])
    for key in ("elevation", "camera_distances", "fovy"):
        scenes = batch[key].view(2, 4)
        assert (scenes == scenes[:, :1]).all() and (scenes[0] != scenes[1]).all(), key
    gaps = batch["azimuth"].view(2, 4).diff(dim=1)
    torch.testing.assert_close(gaps, torch.full((2, 3), 90.0), atol=1e-3, rtol=0)
    assert (batch["azimuth"].view(2, 4)[:, 0] < -90).all()


def test_without_perturbation_every_camera_looks_at_the_origin():
    batch = multi(camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0).collate([])
    torch.testing.assert_close(batch["camera_positions"].norm(dim=-1), batch["camera_distances"])
    looking = -torch.nn.functional.normalize(batch["camera_positions"], dim=-1)
    torch.testing.assert_close(-batch["c2w"][:, :3, 2], looking, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [single, multi])
def test_elevations_fill_the_whole_range_in_both_branches(build):
    """Mean of the even mixture on [0, 30] degrees: (15 + 14.66) / 2; upstream's multi-view never
    passes 19.5."""
    elevation = many(build(batch_size=8, elevation_range=[0.0, 30.0]), "elevation")
    assert 0.0 <= elevation.min() < 1.0 and 29.0 < elevation.max() <= 30.0
    assert abs(elevation.mean() - 14.83) < 1.0


def test_relative_radius_keeps_the_object_size_and_zoom_comes_after():
    batch = multi(
        camera_distance_range=[0.9, 0.9], zoom_range=[0.5, 0.5], fovy_range=[20.0, 60.0]
    ).collate([])
    torch.testing.assert_close(
        batch["camera_distances"] * torch.tan(batch["fovy"]), torch.full((8,), 0.9)
    )
    absolute = multi(camera_distance_range=[0.9, 0.9], relative_radius=False).collate([])
    torch.testing.assert_close(absolute["camera_distances"], torch.full((8,), 0.9))


def test_batch_uniform_azimuth_puts_one_camera_in_each_stratum():
    azimuth = single(batch_size=6).collate([])["azimuth"]
    assert (((azimuth + 180) // 60).long() == torch.arange(6)).all()


@pytest.mark.parametrize("build", [single, multi])
@pytest.mark.parametrize("lights", ["dreamfusion", "magic3d"])
def test_a_resumed_dataset_repeats_the_uninterrupted_one(build, lights):
    settings = {
        "batch_size": [4, 8],
        "height": [4, 8],
        "width": [4, 8],
        "resolution_milestones": [3],
        "progressive_until": 4,
        "light_sample_strategy": lights,
    }
    whole, resumed = build(**settings), build(**settings)
    batches = [whole.collate([]) for _ in range(6)]
    resumed.set_step(2)
    torch.rand(7)
    for expected in batches[2:]:
        found = resumed.collate([])
        for key, value in expected.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found[key])), key


def test_batches_differ_from_each_other():
    dataset = single(batch_size=2)
    assert not torch.equal(dataset.collate([])["c2w"], dataset.collate([])["c2w"])


def test_stages_begin_exactly_at_their_milestone_whatever_the_system_reports():
    dataset = multi(height=[4, 8], width=[4, 8], batch_size=[8, 4], resolution_milestones=[2])
    seen = []
    for _ in range(4):
        dataset.update_step(0, 0)
        seen.append(tuple(dataset.collate([])["rays_d"].shape[:3]))
    assert seen == [(8, 4, 4), (8, 4, 4), (4, 8, 8), (4, 8, 8)]


def test_progressive_views_start_at_the_evaluation_elevation_and_the_front():
    dataset = single(progressive_until=9, eval_elevation_deg=15.0, batch_size=4)
    first = dataset.collate([])
    torch.testing.assert_close(first["elevation"], torch.full((4,), 15.0))
    assert (first["azimuth"].abs() == 0.0).all()
    dataset.set_step(10)
    assert dataset.azimuth_range == [-180.0, 180.0] and dataset.elevation_range == [-10.0, 90.0]


def test_without_progressive_views_the_first_batch_has_the_full_ranges():
    assert single().azimuth_range == [-180.0, 180.0]


def test_evaluation_cameras_turn_around_the_front():
    cfg = parse_structured(
        RandomCameraDataModuleConfig, {"eval_height": 3, "eval_width": 5, "n_val_views": 4}
    )
    validation, test = RandomCameraDataset(cfg, "val"), RandomCameraDataset(cfg, "test")
    assert [round(validation[i]["azimuth"].item()) for i in range(4)] == [0, 90, 180, 270]
    assert len(test) == 120 and test[119]["azimuth"].item() == pytest.approx(360.0)
    batch = validation.collate([validation[2]])
    assert f"{batch['index'][0]}" == "2" and batch["rays_d"].shape == (1, 3, 5, 3)
    torch.testing.assert_close(batch["light_positions"], batch["camera_positions"])


def test_the_data_module_serves_the_batches_of_its_dataset():
    cfg = {**SMALL, "batch_size": 4, "n_view": 4}
    whole, resumed = RandomMultiviewCameraDataModule(cfg), RandomMultiviewCameraDataModule(cfg)
    whole.setup("fit")
    resumed.setup("fit")
    resumed.train_dataset.set_step(1)
    batches = iter(whole.train_dataloader())
    next(batches)
    assert torch.equal(next(batches)["c2w"], next(iter(resumed.train_dataloader()))["c2w"])
    whole.setup("test")
    assert len(whole.test_dataloader()) == 120 and len(whole.val_dataloader()) == 1
    assert next(iter(whole.predict_dataloader()))["height"] == 512


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 6, "n_view": 4}, "multiple of `data.n_view` 4.*to 4 or a multiple"),
        ({"elevation_range": [30, 0]}, r"reversed: \[30, 0\].*\[0, 30\]"),
        ({"fovy_range": [1, 2, 3]}, "must be two numbers"),
        ({"height": "tall"}, "`data.height` is 'tall'; it must be a positive int"),
        ({"height": [4, 8]}, "has 2 values, but 0 resolution milestones"),
        ({"resolution_milestones": [5, 2], "height": [1, 2, 3]}, "must ascend"),
        ({"light_sample_strategy": "sun"}, "'sun'; it must be one of dreamfusion, magic3d"),
        ({"zoom_range": [2, 1]}, "`data.zoom_range` is reversed"),
        ({"n_view": 0}, "`data.n_view` is 0"),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomMultiviewCameraDataModule({"batch_size": 4, "n_view": 4, **settings})


def test_all_faults_are_reported_at_once():
    with pytest.raises(ValueError, match=r"(?s)elevation_range.*sun"):
        RandomCameraDataModule({"elevation_range": [3, 1], "light_sample_strategy": "sun"})
