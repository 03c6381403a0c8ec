"""Files of Gaussians: written and read back, and read by others: `plyfile`, which knows nothing of
Gaussians, and `gaussforge`, which converts their files."""

import importlib
from pathlib import Path

import gaussforge
import numpy as np
import plyfile
import pytest
import torch
import torch.nn.functional as F

from threestudio.registry import find
from threestudio.utils.errors import UserError

harmonics = importlib.import_module("threestudio-3dgs.spherical_harmonics")
ply = importlib.import_module("threestudio-3dgs.ply")
parameters = importlib.import_module("threestudio-3dgs.parameters")


def values(count=5, degree=2):
    generator = torch.Generator().manual_seed(0)
    shapes = parameters.shapes(count, degree)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("count", "degree"), [(5, 0), (5, 2), (3, 3), (0, 1)])
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, count, degree):
    written = values(count, degree)
    ply.write_gaussians(tmp_path / "a.ply", written)
    read = ply.read_gaussians(tmp_path / "a.ply")
    assert written.keys() == read.keys()
    for name, value in written.items():
        assert torch.equal(value, read[name]), name


def test_another_program_finds_the_layout_of_viewers(tmp_path):
    written = values(7, 2)
    ply.write_gaussians(tmp_path / "a.ply", written)
    vertex = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    assert [p.name for p in vertex.properties] == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *("f_rest_0", "f_rest_1", "f_rest_2", "f_rest_3", "f_rest_4", "f_rest_5", "f_rest_6"),
        *("f_rest_7", "f_rest_8", "f_rest_9", "f_rest_10", "f_rest_11", "f_rest_12", "f_rest_13"),
        *("f_rest_14", "f_rest_15", "f_rest_16", "f_rest_17", "f_rest_18", "f_rest_19"),
        *("f_rest_20", "f_rest_21", "f_rest_22", "f_rest_23", "opacity"),
        *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert {p.val_dtype for p in vertex.properties} == {"f4"}

    def columns(*wanted):
        return torch.from_numpy(np.stack([np.asarray(vertex[name]) for name in wanted], axis=1))

    assert torch.equal(columns("x", "y", "z"), written["_xyz"])
    assert (columns("nx", "ny", "nz") == 0).all()
    assert torch.equal(columns("f_dc_0", "f_dc_1", "f_dc_2"), written["_features_dc"][:, 0])
    assert torch.equal(columns("opacity"), written["_opacity"])
    assert torch.equal(columns("scale_0", "scale_1", "scale_2"), written["_scaling"])
    assert torch.equal(columns("rot_0", "rot_1", "rot_2", "rot_3"), written["_rotation"])
    # all coefficients of red come first
    assert torch.equal(
        columns("f_rest_0", "f_rest_7", "f_rest_8", "f_rest_23"),
        torch.stack(
            [written["_features_rest"][:, k, c] for k, c in ((0, 0), (7, 0), (0, 1), (7, 2))], dim=1
        ),
    )


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_converter_of_gaussians_finds_their_parameters(tmp_path, degree):
    """It sorts harmonics by coefficient, then by channel, as the parameters are."""
    written = values(6, degree)
    ply.write_gaussians(tmp_path / "a.ply", written)
    found = gaussforge.GaussForge().read((tmp_path / "a.ply").read_bytes(), "ply")["data"]
    assert found["numPoints"] == 6 and found["meta"]["shDegree"] == degree
    for theirs, ours in (
        ("positions", "_xyz"),
        ("colors", "_features_dc"),
        ("sh", "_features_rest"),
        ("alphas", "_opacity"),
        ("scales", "_scaling"),
        ("rotations", "_rotation"),
    ):
        numbers = np.frombuffer(found[theirs], dtype="<f4")
        assert numbers.tolist() == written[ours].flatten().tolist(), ours


SPLAT = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("wxyz", "u1", 4)])
"""A Gaussian in a .splat file: scales, not their logarithms; colours and opacities times 255; a
unit quaternion, times 128 plus 128."""


def test_a_converter_of_gaussians_makes_of_them_what_we_draw(tmp_path):
    """Logarithms of scales, logits of opacities, and the real part of a quaternion first."""
    model = find("gaussian-splatting")({"init_num_pts": 30})
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in (model._scaling, model._opacity, model._rotation, model._features_dc):
            parameter += torch.randn(parameter.shape, generator=generator)
    model.save_ply(str(tmp_path / "a.ply"))
    data = Path(tmp_path / "a.ply").read_bytes()
    made = gaussforge.GaussForge().convert(data, "ply", "splat")["data"]
    rows = np.frombuffer(made, dtype=SPLAT)
    rows = rows[rows["xyz"][:, 0].argsort()]
    drawn, order = model.gaussians(), model._xyz[:, 0].argsort()
    expected = {name: value[order].detach().numpy() for name, value in vars(drawn).items()}
    np.testing.assert_array_equal(rows["xyz"], expected["means"])
    np.testing.assert_allclose(rows["scale"], expected["scales"], rtol=1e-5)
    rgb = harmonics.harmonics_to_rgb(torch.from_numpy(expected["harmonics"][:, 0])).numpy()
    np.testing.assert_allclose(rows["rgba"][:, :3] / 255, rgb, atol=1.1 / 255)
    np.testing.assert_allclose(rows["rgba"][:, 3] / 255, expected["opacities"], atol=1.1 / 255)
    unit = F.normalize(torch.from_numpy(expected["rotations"]), dim=1).numpy()
    theirs = (rows["wxyz"] - 128.0) / 128.0
    signs = np.sign((theirs * unit).sum(axis=1, keepdims=True))  # q and -q are the same rotation
    np.testing.assert_allclose(theirs * signs, unit, atol=1.1 / 128)


@pytest.mark.parametrize("form", [{"byte_order": "<"}, {"byte_order": ">"}, {"text": True}])
def test_files_of_another_program_are_read_whatever_the_order_and_types(tmp_path, form):
    written = values(4, 1)
    ply.write_gaussians(tmp_path / "a.ply", written)
    vertex = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    names = [n for n in ply.column_names(9) if n not in ("nx", "ny", "nz")][::-1]
    rows = np.zeros(4, dtype=[("class", "u1"), *((name, "f8") for name in names)])
    for name in names:
        rows[name] = vertex[name]
    other = plyfile.PlyElement.describe(np.zeros(2, dtype=[("value", "i4")]), "other")
    element = plyfile.PlyElement.describe(rows, "vertex")
    plyfile.PlyData([element, other], **form).write(str(tmp_path / "b.ply"))
    assert ply.is_gaussian_file(tmp_path / "b.ply")
    read = ply.read_gaussians(tmp_path / "b.ply")
    assert all(torch.equal(value, read[name]) for name, value in written.items())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_with_text_lines_of_either_kind_are_read(tmp_path, end):
    written = values(3, 0)
    ply.write_gaussians(tmp_path / "a.ply", written)
    head, mark, rest = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    head = (head + mark).replace(b"\n", end)
    (tmp_path / "b.ply").write_bytes(head + rest)
    read = ply.read_gaussians(tmp_path / "b.ply")
    assert all(torch.equal(value, read[name]) for name, value in written.items())


def test_other_files_are_told_apart_and_refused(tmp_path):
    points = np.zeros(3, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    element = plyfile.PlyElement.describe(points, "vertex")
    plyfile.PlyData([element], byte_order="<").write(str(tmp_path / "points.ply"))
    plyfile.PlyData([element], text=True).write(str(tmp_path / "text.ply"))
    (tmp_path / "noise.ply").write_bytes(b"not a ply")
    for name in ("points", "text", "noise"):
        path = tmp_path / f"{name}.ply"
        assert not ply.is_gaussian_file(path)
        with pytest.raises(UserError, match="holds no Gaussians: it has no .*opacity"):
            ply.read_gaussians(path)


def test_files_that_are_cut_off_or_of_no_degree_are_refused(tmp_path):
    ply.write_gaussians(tmp_path / "a.ply", values(5, 1))
    whole = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "b.ply").write_bytes(whole[:-1])
    text = plyfile.PlyData(list(plyfile.PlyData.read(str(tmp_path / "a.ply"))), text=True)
    text.write(str(tmp_path / "text.ply"))
    lines = (tmp_path / "text.ply").read_bytes()
    (tmp_path / "short.ply").write_bytes(lines[: lines.rstrip().rindex(b" ")])
    (tmp_path / "words.ply").write_bytes(lines[: lines.rstrip().rindex(b" ")] + b" x")
    for name in ("b", "short", "words"):
        with pytest.raises(UserError, match="is cut off or damaged: it should hold 5 Gaussians"):
            ply.read_gaussians(tmp_path / f"{name}.ply")
    broken = whole.replace(b"f_rest_8", b"unused_8")
    (tmp_path / "c.ply").write_bytes(broken)
    with pytest.raises(UserError, match="has 8 numbers in f_rest, which fit no degree"):
        ply.read_gaussians(tmp_path / "c.ply")
