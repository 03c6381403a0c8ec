"""Camera maths against the conventions written at the top of `threestudio/data/cameras.py`."""

import math

import pytest
import torch

from threestudio.data.cameras import (
    Poses,
    camera_batch,
    camera_rays,
    dreamfusion_light,
    look_at,
    magic3d_light,
    sphere_elevation,
    spherical_to_cartesian,
)


def poses(elevation, azimuth, distance=2.0, fovy_deg=40.0):
    elevation, azimuth = torch.tensor(elevation), torch.tensor(azimuth)
    radius = torch.full_like(elevation, distance)
    position = spherical_to_cartesian(elevation, azimuth, radius)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(position)
    fovy = torch.full_like(elevation, math.radians(fovy_deg))
    return Poses(
        elevation, azimuth, radius, fovy, position, torch.zeros_like(position), up, position
    )


@pytest.mark.parametrize(
    ("elevation", "azimuth", "place"),
    [
        (0.0, 0.0, (1, 0, 0)),
        (0.0, 90.0, (0, 1, 0)),
        (0.0, 180.0, (-1, 0, 0)),
        (90.0, 0.0, (0, 0, 1)),
    ],
)
def test_azimuth_starts_at_plus_x_and_turns_to_plus_y(elevation, azimuth, place):
    found = spherical_to_cartesian(*map(torch.tensor, ([elevation], [azimuth], [1.0])))
    torch.testing.assert_close(found[0], torch.tensor(place).float(), atol=1e-6, rtol=0)


def test_front_camera_has_plus_y_on_the_right_and_plus_z_on_top():
    batch = camera_batch(poses([0.0], [0.0]), 5, 5, 0.1, 10.0, True)
    c2w, rays = batch["c2w"][0], batch["rays_d"][0]
    torch.testing.assert_close(c2w[:3, 0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(c2w[:3, 1], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(c2w[:3, 3], torch.tensor([2.0, 0.0, 0.0]))
    torch.testing.assert_close(rays[2, 2], torch.tensor([-1.0, 0.0, 0.0]))
    assert rays[2, 4, 1] > 0.1, "the right of the image is +y"
    assert rays[0, 2, 2] > 0.1, "the top of the image is +z"


def test_rotations_are_orthonormal_and_right_handed():
    c2w = camera_batch(poses([-80.0, 10.0, 89.0], [5.0, 100.0, -170.0]), 2, 2, 0.1, 10.0, True)[
        "c2w"
    ]
    rotation = c2w[:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3))


def test_a_camera_straight_above_has_a_valid_rotation():
    position = torch.tensor([[0.0, 0.0, 2.0]])
    c2w = look_at(position, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(torch.linalg.det(c2w[:, :3, :3]), torch.ones(1))
    torch.testing.assert_close(c2w[0, :3, 1], torch.tensor([-1.0, 0.0, 0.0]))


def test_points_on_a_pixel_ray_project_to_the_pixel():
    height, width = 6, 8
    batch = camera_batch(
        poses([20.0, -30.0, 60.0], [30.0, 200.0, -45.0]), height, width, 0.1, 10.0, True
    )
    points = batch["rays_o"] + 1.7 * batch["rays_d"]
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    clip = torch.einsum("bij,bhwj->bhwi", batch["mvp_mtx"], homogeneous)
    screen = clip[..., :2] / clip[..., 3:]
    columns = (torch.arange(width) + 0.5) / width * 2 - 1
    rows = (torch.arange(height) + 0.5) / height * 2 - 1
    torch.testing.assert_close(screen[..., 0], columns.expand(3, height, width), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        screen[..., 1], rows[:, None].expand(3, height, width), atol=1e-5, rtol=0
    )


def test_the_outermost_rays_span_the_field_of_view():
    """With 2 rows the pixel centres stand at half of the half angle's tangent: tan = 0.5 tan(fovy /
    2)."""
    c2w = torch.eye(4)[None]
    fovy = torch.tensor([math.radians(60.0)])
    _, directions = camera_rays(c2w, fovy, 2, 2, normalize=False)
    assert directions[0, 0, 0, 1].item() == pytest.approx(0.5 * math.tan(math.radians(30.0)))
    _, unit = camera_rays(c2w, fovy, 2, 2)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(1, 2, 2))


def test_sphere_elevations_fill_the_range_with_equal_area():
    """The median of [0, 30] degrees by area is asin(sin(30) / 2) = 14.48 degrees."""
    draws = torch.tensor([0.0, 0.5, 1.0])
    found = sphere_elevation(draws, 0.0, 30.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 14.4775, 30.0]), atol=1e-3, rtol=0)


def test_lights_keep_their_distance_and_side():
    position = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 3.0]])
    distance = torch.tensor([1.0, 2.0, 3.0])
    near = dreamfusion_light(position, torch.zeros(3, 3), distance)
    torch.testing.assert_close(
        near, distance[:, None] * torch.nn.functional.normalize(position, dim=-1)
    )
    wide = magic3d_light(position, torch.tensor([[0.1, 0.0], [0.6, 0.5], [0.9, 1.0]]), distance)
    torch.testing.assert_close(wide.norm(dim=-1), distance)
    cosine = torch.nn.functional.cosine_similarity(wide, position)
    expected = torch.tensor([30.0, 60.0, 90.0]).deg2rad().sin()
    torch.testing.assert_close(cosine, expected, atol=1e-5, rtol=0)
