"""Tensor helpers against closed forms."""

import math

import pytest
import torch

from threestudio.utils import ops
from threestudio.utils.loss import tv_loss


def test_scale_tensor_maps_bounds_to_bounds():
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    assert ops.scale_tensor(x, (-1, 1), (0, 10)).flatten().tolist() == [0, 5, 10]
    box = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    assert ops.scale_tensor(torch.tensor([[1.0, 1.0]]), box, None).tolist() == [[0.5, 0.25]]


def test_reflect_at_the_z_plane():
    """(1, 0, 1) about z is (-1, 0, 1)."""
    out = ops.reflect(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert out.tolist() == [[-1.0, 0.0, 1.0]]


def test_trunc_exp_bounds_the_gradient_not_the_value():
    x = torch.tensor([2.0, 20.0], requires_grad=True)
    y = ops.trunc_exp(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.exp(x))
    torch.testing.assert_close(x.grad, torch.tensor([math.exp(2), math.exp(15)]))


def test_specify_gradient():
    x = torch.zeros(3, requires_grad=True)
    (2 * ops.SpecifyGradient.apply(x, torch.tensor([1.0, 2.0, 3.0]))).sum().backward()
    assert x.grad.tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, 0.5),
        ("none", 0.5),
        ("exp", math.exp(0.5)),
        ("shifted_exp", math.exp(-0.5)),
        ("trunc_exp", math.exp(0.5)),
        ("Sigmoid", 1 / (1 + math.exp(-0.5))),
        ("shifted_softplus", math.log(1 + math.exp(-0.5))),
        ("scale_-11_01", 0.75),
        ("relu", 0.5),
        ("lin2srgb", 1.055 * 0.5 ** (1 / 2.4) - 0.055),
    ],
)
def test_activations(name, expected):
    assert ops.get_activation(name)(torch.tensor(0.5)).item() == pytest.approx(expected, rel=1e-6)


def test_unknown_activation_is_explained():
    with pytest.raises(ValueError, match="Unknown activation 'softplux'"):
        ops.get_activation("softplux")


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 100])
def test_chunked_equals_unchunked(chunk: int):
    x, y = torch.arange(14.0).reshape(7, 2), torch.arange(7.0)

    def func(x, scale, y):
        return {"a": x * scale, "b": (y, None), "c": [x.sum(-1)]}

    out = ops.chunk_batch(func, chunk, x, 3, y=y)
    assert torch.equal(out["a"], 3 * x) and torch.equal(out["b"][0], y) and out["b"][1] is None
    assert torch.equal(out["c"][0], x.sum(-1))


def test_chunking_nothing_keeps_the_shape_of_the_answer():
    assert ops.chunk_batch(lambda x: x * 2, 4, torch.zeros(0, 3)).shape == (0, 3)


def test_ray_directions_of_a_two_by_two_image():
    """Pixel centres are half a pixel from the middle; y points up, the camera looks along -z."""
    directions = ops.get_ray_directions(2, 2, 1.0)
    assert directions[0, 0].tolist() == [-0.5, 0.5, -1.0]
    assert directions[1, 1].tolist() == [0.5, -0.5, -1.0]
    with pytest.raises(ValueError, match="principal"):
        ops.get_ray_directions(2, 2, (1.0, 1.0))


def test_rays_are_rotated_and_start_at_the_camera():
    """A camera at (1, 2, 3) turned by 90 degrees about z looks along -z all the same."""
    c2w = torch.eye(4)
    c2w[:3, :3] = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    c2w[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    origins, rays = ops.get_rays(directions, c2w)
    assert origins.tolist() == [[1, 2, 3], [1, 2, 3]]
    torch.testing.assert_close(rays, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]))


def test_rays_keep_the_image_axes_on_request():
    directions = ops.get_ray_directions(2, 3, 1.0)
    origins, rays = ops.get_rays(directions, torch.eye(4).repeat(5, 1, 1), keepdim=True)
    assert origins.shape == rays.shape == (5, 2, 3, 3)
    flat, _ = ops.get_rays(directions, torch.eye(4).repeat(5, 1, 1))
    assert flat.shape == (30, 3)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(5, 2, 3))


def test_projection_puts_near_and_far_at_minus_one_and_one_and_flips_y():
    proj = ops.get_projection_matrix(torch.tensor([math.pi / 2]), 1.0, 0.1, 10.0)[0]
    for depth, z in ((0.1, -1.0), (10.0, 1.0)):
        clip = proj @ torch.tensor([0.0, depth, -depth, 1.0])
        assert (clip[2] / clip[3]).item() == pytest.approx(z, abs=1e-5)
        assert (clip[1] / clip[3]).item() == pytest.approx(
            -1.0, abs=1e-6
        )  # fov 90: y = z is the edge


def test_mvp_inverts_the_pose():
    c2w = torch.eye(4)[None].clone()
    angle = torch.tensor(0.7)
    c2w[0, :2, :2] = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    c2w[0, :3, 3] = torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(ops.get_mvp_matrix(c2w, torch.eye(4)[None]), torch.inverse(c2w))


def test_perpendicular_component_has_no_part_along_y():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, 2, 2, generator=generator)
    rest = ops.perpendicular_component(x, y)
    assert (rest * y).sum(dim=(1, 2, 3)).abs().max() < 1e-5
    along = x - rest
    torch.testing.assert_close(
        ops.perpendicular_component(along, y), torch.zeros_like(x), atol=1e-5, rtol=0
    )


def test_total_variation_by_hand():
    """One image [[0, 1], [0, 3]]: down 0, 4 (mean 2), right 1, 9 (mean 5), twice the sum."""
    x = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])
    assert tv_loss(x).item() == 14.0
    assert tv_loss(x.repeat(3, 1, 1, 1)).item() == pytest.approx(14.0)


def test_gaussian_cameras_look_along_plus_z():
    """A camera at (0, 0, 3) looking down sees the origin in the middle of its picture, at the clip
    depth far (d - near) / (d (far - near)) for d = 3."""
    c2w = torch.eye(4)
    c2w[2, 3] = 3.0
    view, full, center = ops.get_cam_info_gaussian(c2w, 1.0, 1.2, 1.0, 5.0)
    origin = torch.tensor([0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(origin @ view, torch.tensor([0.0, 0.0, 3.0, 1.0]))
    clip = origin @ full
    torch.testing.assert_close(clip / clip[3], torch.tensor([0.0, 0.0, 5 * 2 / (3 * 4), 1.0]))
    torch.testing.assert_close(center, torch.tensor([0.0, 0.0, 3.0]))
    up = torch.tensor([0.0, 0.1, 0.0, 1.0]) @ full
    assert up[1] < 0, "up in the world is a smaller row"
    fovs = ops.get_fov_gaussian(ops.get_projection_matrix_gaussian(0.1, 100.0, 1.0, 1.2))
    assert [f.item() for f in fovs] == pytest.approx([1.0, 1.2])


def test_full_projection_and_pose_by_hand():
    c2w = torch.arange(16.0).reshape(4, 4)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    torch.testing.assert_close(ops.convert_pose(c2w), c2w @ flip)
    torch.testing.assert_close(ops.get_full_projection_matrix(c2w, flip), c2w @ flip)


def test_the_regulariser_of_a_tetrahedral_grid_counts_sign_changes():
    """Edge (1, -1): -log sigmoid(-1) from each side; edge (1, 2) has no change."""
    sdf = torch.tensor([[1.0], [-1.0], [2.0]])
    edges = torch.tensor([[0, 1], [0, 2]])
    expected = 2 * torch.nn.functional.softplus(torch.tensor(1.0))
    torch.testing.assert_close(ops.tet_sdf_diff(sdf, edges), expected)
    assert ops.tet_sdf_diff(sdf, edges[1:]).item() == 0.0


def test_no_sample_becomes_one_without_length():
    empty = torch.zeros(0)
    rays, start, end = ops.validate_empty_rays(empty.long(), empty, empty)
    assert rays.tolist() == [0] and start.tolist() == end.tolist() == [0.0]
    assert start.dtype == torch.float32
    one = torch.ones(1)
    assert ops.validate_empty_rays(one.long(), one, one)[1] is one
