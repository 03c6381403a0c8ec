"""The rasteriser of Gaussians against loops over pixels, closed forms and finite differences."""

import dataclasses
import importlib
import math

import pytest
import torch

from tests.gaussians.scenes import NAMES, arrays, cloud, look, rasterizer, single, stacked, views
from tests.helpers import gaussian_reference
from threestudio.utils.cameras import get_ray_directions, get_rays
from threestudio.utils.errors import NonFiniteError

compositing = importlib.import_module("threestudio-3dgs.compositing")
projection = importlib.import_module("threestudio-3dgs.projection")
rasterize = rasterizer.rasterize


def changed(gaussians, **values):
    return dataclasses.replace(gaussians, **values)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_pictures_equal_a_loop_over_pixels_and_gaussians(degree):
    gaussians, (c2w, fovy, cameras) = cloud(120, degree, seed=degree), views(13, 18)
    image = stacked(rasterize(gaussians, cameras))
    worst = 0.0
    for n in range(2):
        view = c2w[n].numpy(), fovy[n].item(), cameras.height, cameras.width
        expected = torch.from_numpy(gaussian_reference.render(arrays(gaussians), *view))
        assert expected[..., 7].max() > 0.9 and expected[..., 7].std() > 0.05
        worst = max(worst, (image[n] - expected).abs().max().item())
    print(f"largest difference from the reference, degree {degree}: {worst:.1e}")
    assert worst <= 1e-10


def test_opaque_stacks_stop_and_are_cut_into_layers(monkeypatch):
    """Opaque Gaussians on one another: most lists are longer than a layer, and end early."""
    gaussians, (c2w, fovy, cameras) = cloud(120, size=(0.2, 0.6), spread=0.4), views(12, 10)
    gaussians = changed(gaussians, opacities=gaussians.opacities.clamp_min(0.6))
    image = stacked(rasterize(gaussians, cameras))
    view = c2w[0].numpy(), fovy[0].item(), 12, 10
    expected = torch.from_numpy(gaussian_reference.render(arrays(gaussians), *view))
    assert (1 - expected[..., 7]).min() < 2e-3
    torch.testing.assert_close(image[0], expected, rtol=0, atol=1e-10)
    for name, value in (("LAYER", 3), ("TILES_AT_ONCE", 2)):
        monkeypatch.setattr(compositing, name, value)
        torch.testing.assert_close(stacked(rasterize(gaussians, cameras)), image)


@pytest.mark.parametrize("layer", [2, 32])
def test_gradients_are_exact(layer, monkeypatch):
    """Tile borders, layers and a second view included; nothing is at a limit of alpha."""
    monkeypatch.setattr(compositing, "LAYER", layer)
    gaussians, (_, _, cameras) = cloud(4, degree=1, size=(0.15, 0.3), spread=0.3), views(9, 10)
    gaussians = changed(gaussians, opacities=gaussians.opacities * 0.4 + 0.3)
    offsets = torch.zeros(2, 4, 2).double()
    inputs = [getattr(gaussians, name) for name in NAMES] + [offsets]

    weights = torch.rand(10, 2 * 9 * 10 * 8, generator=torch.Generator().manual_seed(2)).double()

    def draw(*values):
        parameters = projection.Gaussians(*values[:-1])
        image = stacked(rasterize(parameters, cameras, offsets=values[-1]))
        return weights @ image.flatten()

    inputs = [value.clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(draw, inputs, eps=1e-7, atol=1e-6)


def test_gradients_through_opaque_pixels_are_those_of_autograd():
    """With alpha cut off and pixels that stop: the plain formula, differentiated by autograd."""
    gaussians, (_, _, cameras) = cloud(60, size=(0.2, 0.6), spread=0.4), views(8, 8)
    gaussians = changed(gaussians, opacities=torch.linspace(0.7, 1.0, 60).double())
    weight = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for draw in (rasterize, one_by_one):
        inputs = [getattr(gaussians, name).clone().requires_grad_() for name in NAMES]
        image = stacked(draw(projection.Gaussians(*inputs), cameras))
        (image * weight).sum().backward()
        found.append([value.grad for value in inputs])
    assert (1 - image[..., 7]).min() < 2e-3
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-10)


def one_by_one(gaussians, cameras):
    """Blend all pixels at once, one Gaussian after the other."""
    shape = len(cameras.center), len(gaussians.means), 2
    splats = projection.project(gaussians, cameras, 0.1, 100.0, torch.zeros(shape).double())
    values = rasterizer.features(gaussians, cameras, splats)
    place = torch.arange(8).double() + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    images = []
    for view in range(len(cameras.center)):
        image, light = torch.zeros(8, 8, 8).double(), torch.ones(8, 8).double()
        rows = (splats.view == view).nonzero()[:, 0]
        for n in rows[splats.depth[rows].argsort()]:
            dx, dy = x - splats.mean[n, 0], y - splats.mean[n, 1]
            xx, xy, yy = splats.conic[n]
            squared = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
            alpha = (splats.log_opacity[n] - 0.5 * squared).exp().clamp_max(0.99)
            alpha = torch.where(alpha > 1 / 255, alpha, 0.0)
            drawn = light * (1 - alpha) > 1e-4
            image = image + (light * alpha * drawn)[..., None] * values[n]
            light = light * (1 - alpha)
        images.append(image)
    image = torch.stack(images)
    color, normal, depth, opacity = image.split([3, 3, 1, 1], dim=-1)
    return rasterizer.Rendering(color, depth, normal, opacity, splats.radii)


def test_a_gaussian_is_where_the_ray_through_its_centre_is():
    """The runtime's own rays say where a point is seen."""
    c2w = look((2.0, 1.0, 0.7))
    height, width, fovy = 30, 40, math.radians(45)
    directions = get_ray_directions(height, width, 0.5 * height / math.tan(fovy / 2))
    origins, rays = get_rays(directions, c2w.float(), keepdim=True)
    row, column = 7, 31
    mean = (origins + 1.7 * rays)[row, column].double()
    cameras = projection.Cameras.of(c2w[None], torch.tensor([fovy]).double(), height, width)
    out = rasterize(single(tuple(mean.tolist()), (0.01,) * 3, 0.9), cameras)
    brightest = out.opacity[0, ..., 0].argmax().item()
    assert divmod(brightest, width) == (row, column)
    assert out.opacity.max().item() == pytest.approx(0.9, abs=1e-3)
    along = 1.7 * rays[row, column].double() @ -c2w[:3, 2]
    depth = out.depth[0, row, column, 0] / out.opacity[0, row, column, 0]
    assert depth.item() == pytest.approx(along.item(), abs=1e-6)


def test_variances_in_the_picture_by_hand():
    """At distance 2, one unit is f / 2 = 20 pixels: variances (20 * 0.1)^2 and (20 * 0.05)^2, each
    0.3 wider."""
    cameras = views(40, 40, positions=((2.0, 0.0, 0.0),), fovy_deg=math.degrees(2 * math.atan(0.5)))
    out = rasterize(single(scale=(0.3, 0.1, 0.05), opacity=0.5), cameras[2])
    assert cameras[2].focal.item() == pytest.approx(40.0)
    assert out.radii.item() == math.ceil(3 * math.sqrt(4.3))
    # pixel (20, 20) is half a pixel away from the centre in both directions
    expected = 0.5 * math.exp(-0.5 * (0.25 / 4.3 + 0.25 / 1.3))
    assert out.opacity[0, 20, 20, 0].item() == pytest.approx(expected, rel=1e-12)
    normal = out.normal[0, 20, 20] / out.opacity[0, 20, 20]
    assert normal.abs().argmax() == 2


def test_normals_face_the_camera():
    thin = single(scale=(0.01, 0.3, 0.3), opacity=0.9)
    for side in (1.0, -1.0):
        cameras = views(positions=((2.0 * side, 0.0, 0.0),))[2]
        out = rasterize(thin, cameras)
        normal = (out.normal / out.opacity)[0, 10, 12]
        torch.testing.assert_close(normal, torch.tensor([side, 0.0, 0.0]).double())


def test_what_is_not_in_the_picture_is_not_drawn_and_changes_nothing():
    """Behind the camera, nearer than the near plane, beyond the far plane, beside, transparent."""
    seen, (_, _, cameras) = single(), views(positions=((2.0, 0.0, 0.0),))
    away = [(3.0, 0, 0), (1.95, 0, 0), (-99.0, 0, 0), (0, 5.0, 0), (0, 0, 0.1)]
    parts = [seen, *(single(mean) for mean in away[:-1]), single(away[-1], opacity=1 / 256)]
    joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in NAMES}
    inputs = {name: value.requires_grad_() for name, value in joined.items()}
    out = rasterize(projection.Gaussians(**inputs), cameras)
    assert out.visible[0].tolist() == [True] + [False] * 5
    assert torch.equal(stacked(out), stacked(rasterize(seen, cameras)))
    (out.color.sum() + out.depth.sum()).backward()
    for value in inputs.values():
        assert value.grad.isfinite().all() and (value.grad[1:] == 0).all()
    assert (inputs["opacities"].grad[0] != 0).all()


def test_the_gradient_of_offsets_is_that_of_a_moved_picture():
    """A sheet that faces the camera keeps its shape when it moves: offsets count in half pictures,
    and one unit of the world is f / 2 pixels."""
    cameras, eps = views(32, 48, positions=((2.0, 0.0, 0.0),))[2], 1e-5
    weight = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(0)).double()
    sheet = {"scale": (1e-9, 0.1, 0.1)}
    offsets = torch.zeros(1, 1, 2).double().requires_grad_()
    (rasterize(single(**sheet), cameras, offsets=offsets).color * weight).sum().backward()
    right, down = (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)
    for axis, (way, half_picture) in enumerate(((right, 24), (down, 16))):
        ends = [single(tuple(sign * eps * m for m in way), **sheet) for sign in (1, -1)]
        above, below = ((rasterize(end, cameras).color * weight).sum().item() for end in ends)
        per_unit = (above - below) / (2 * eps)
        expected = per_unit / (cameras.focal.item() / 2) * half_picture
        assert offsets.grad[0, 0, axis].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_draw_gives_an_empty_picture_with_zero_gradients(count):
    gaussians, (_, _, cameras) = cloud(count), views(10, 12)
    means = (gaussians.means + 50.0).requires_grad_()
    offsets = torch.zeros(2, count, 2).double().requires_grad_()
    out = rasterize(changed(gaussians, means=means), cameras, offsets=offsets)
    assert out.color.shape == (2, 10, 12, 3) and (stacked(out) == 0).all()
    out.color.sum().backward()
    assert (means.grad == 0).all() and (offsets.grad == 0).all()


def test_huge_and_needle_like_gaussians_stay_finite_in_single_precision():
    """A plane that fills the picture, one around the camera, and needles: no value is NaN."""
    scales = torch.tensor([[1e4, 1e4, 1e4], [50.0, 50.0, 50.0], [30.0, 1e-6, 1e-6], [1e-9] * 3])
    gaussians = projection.Gaussians(
        means=torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.0, 0.1, 0], [0.0, 0, 0.1]]),
        scales=scales,
        rotations=torch.tensor([[1.0, 0.2, 0.3, 0.4]]).repeat(4, 1),
        opacities=torch.full((4,), 0.5),
        harmonics=torch.zeros(4, 1, 3),
    )
    inputs = {name: getattr(gaussians, name).requires_grad_() for name in NAMES}
    out = rasterize(projection.Gaussians(**inputs), views()[2])
    assert (out.opacity > 0.7).all()
    (out.color.sum() + out.normal.sum() + out.depth.sum()).backward()
    assert all(value.grad.isfinite().all() for value in inputs.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_not_finite_is_refused_by_name(name):
    gaussians = cloud(5)
    values = getattr(gaussians, name).clone()
    values[3] = math.nan
    with pytest.raises(NonFiniteError, match=rf"{name} of 1 of 5 .* the first is number 3\."):
        rasterize(changed(gaussians, **{name: values}), views()[2])


def test_a_projection_that_overflows_is_refused():
    vast = changed(cloud(2), scales=torch.tensor([[0.1] * 3, [1e200] * 3], dtype=torch.float64))
    with pytest.raises(NonFiniteError, match="number 1 is so large or so near"):
        rasterize(vast, views()[2])


def test_single_precision_agrees_with_double():
    gaussians, (_, _, cameras) = cloud(400, degree=2, size=(0.01, 0.3)), views(48, 40)
    single_precision = projection.Gaussians(*(getattr(gaussians, n).float() for n in NAMES))
    image = stacked(rasterize(single_precision, cameras)).double()
    torch.testing.assert_close(image, stacked(rasterize(gaussians, cameras)), atol=2e-3, rtol=0)


def test_half_precision_and_autocast_are_drawn_in_single_precision():
    gaussians, (_, _, cameras) = cloud(50), views()
    half = projection.Gaussians(*(getattr(gaussians, n).bfloat16() for n in NAMES))
    wide = projection.Gaussians(*(getattr(half, n).float() for n in NAMES))
    with torch.autocast("cpu"):
        image = stacked(rasterize(half, cameras))
    assert image.dtype == torch.float32
    assert torch.equal(image, stacked(rasterize(wide, cameras)))
