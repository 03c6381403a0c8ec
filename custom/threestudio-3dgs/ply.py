"""Gaussians as PLY files in the layout that 3DGS viewers read.

One element `vertex` in binary little-endian floats: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_*,
opacity, scale_0..2, rot_0..3. All are raw parameters: logarithms of scales, logits of opacities,
quaternions (w, x, y, z). Coefficients of `f_rest` are stored channel by channel: first all of red.
"""

import math
from pathlib import Path
from typing import Union

import numpy as np
import torch

from threestudio.utils.errors import UserError

from .parameters import Values

FORMAT = "binary_little_endian"
NUMPY_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "<i2",
    "ushort": "<u2",
    "int": "<i4",
    "uint": "<u4",
    "float": "<f4",
    "double": "<f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "float32": "<f4",
    "float64": "<f8",
}
"""Names of types in PLY headers."""


def column_names(count_rest: int) -> list[str]:
    """List the properties of a Gaussian with `count_rest` numbers in `f_rest`."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(count_rest)]
    return [*names, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def write_gaussians(path: Union[str, Path], values: Values) -> None:
    """Write Gaussians; `values` are their parameters, stored as float32."""
    rest = values["_features_rest"].transpose(1, 2).flatten(1)
    parts = [values["_xyz"], torch.zeros_like(values["_xyz"]), values["_features_dc"].flatten(1)]
    parts += [rest, values["_opacity"], values["_scaling"], values["_rotation"]]
    table = torch.cat([part.detach().float().cpu() for part in parts], dim=1).numpy()
    properties = [f"property float {name}" for name in column_names(rest.shape[1])]
    header = ["ply", f"format {FORMAT} 1.0", f"element vertex {len(table)}", *properties]
    text = "\n".join([*header, "end_header"]) + "\n"
    Path(path).write_bytes(text.encode("ascii") + table.astype("<f4").tobytes())


def is_gaussian_file(path: Union[str, Path]) -> bool:
    """Tell whether a PLY file has the properties of Gaussians."""
    names = {name for name, _ in _header(Path(path).read_bytes())[2]}
    return {"x", "opacity", "scale_0", "rot_0", "f_dc_0"} <= names


def read_gaussians(path: Union[str, Path]) -> Values:
    """Read what `write_gaussians` or another program wrote; the degree is what the file has.

    Raises:
        UserError: If the file is no binary PLY of Gaussians, or is cut off.
    """
    data = Path(path).read_bytes()
    start, count, properties = _header(data)
    kind = np.dtype(properties)
    missing = set(column_names(0)) - {"nx", "ny", "nz"} - set(kind.names or ())
    if missing:
        raise UserError(f"'{path}' holds no Gaussians: it has no {', '.join(sorted(missing))}.")
    if len(data) < start + count * kind.itemsize:
        raise UserError(
            f"'{path}' is cut off: {count} Gaussians need {start + count * kind.itemsize} bytes, "
            f"there are {len(data)}."
        )
    rows = np.frombuffer(data, dtype=kind, count=count, offset=start)
    rest = sum(name.startswith("f_rest_") for name in kind.names)
    bands = math.isqrt(rest // 3 + 1)
    if rest != 3 * (bands**2 - 1):
        raise UserError(f"'{path}' has {rest} numbers in f_rest, which fit no degree.")

    def columns(*names: str) -> torch.Tensor:
        table = [rows[name].astype("f4") for name in names]
        return torch.from_numpy(np.stack(table, axis=1)) if table else torch.zeros(count, 0)

    flat = columns(*(f"f_rest_{i}" for i in range(rest)))
    return {
        "_xyz": columns("x", "y", "z"),
        "_features_dc": columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        "_features_rest": flat.view(count, 3, rest // 3).transpose(1, 2).contiguous(),
        "_opacity": columns("opacity"),
        "_scaling": columns("scale_0", "scale_1", "scale_2"),
        "_rotation": columns("rot_0", "rot_1", "rot_2", "rot_3"),
    }


def _header(data: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """Return where the data begins, and number and properties of the vertices.

    No properties, if the file is of another kind."""
    head, mark, _ = data[: 1 << 16].partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
    if not mark or lines[0] != ["ply"] or ["format", FORMAT, "1.0"] not in lines:
        return 0, 0, []
    elements = [line for line in lines if line[:1] == ["element"]]
    if elements[0][1] != "vertex":
        return 0, 0, []
    begin = lines.index(elements[0]) + 1
    end = lines.index(elements[1]) if len(elements) > 1 else len(lines)
    found = [line for line in lines[begin:end] if line[:1] == ["property"]]
    if any(line[1] not in NUMPY_TYPES for line in found):
        return 0, 0, []
    properties = [(line[2], NUMPY_TYPES[line[1]]) for line in found]
    return len(head) + len(mark), int(elements[0][2]), properties
