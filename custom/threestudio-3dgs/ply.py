"""Gaussians as PLY files in the layout that 3DGS viewers read.

One element `vertex`, which is written in binary little-endian floats: x y z, nx ny nz (zeros),
f_dc_0..2, f_rest_*, opacity, scale_0..2, rot_0..3. All are raw parameters: logarithms of scales,
logits of opacities, quaternions (w, x, y, z). Coefficients of `f_rest` are stored channel by
channel: first all of red.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch

from threestudio.utils.errors import UserError

from .parameters import Values

BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
"""Formats of PLY files and numpy's sign for the order of their bytes."""
NUMPY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
"""Names of types in PLY headers."""

Columns = dict[str, np.ndarray]
"""The numbers of each property."""


@dataclass(frozen=True)
class Header:
    """What a PLY file says of its vertices."""

    start: int = 0
    """Where the data begins, bytes."""
    count: int = 0
    """Number of vertices."""
    format: str = "binary_little_endian"
    """Key of `BYTE_ORDERS`."""
    properties: tuple[tuple[str, str], ...] = ()
    """Names and numpy's types; none if the file is of another kind."""


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
    header = ["ply", f"format {Header.format} 1.0", f"element vertex {len(table)}", *properties]
    text = "\n".join([*header, "end_header"]) + "\n"
    Path(path).write_bytes(text.encode("ascii") + table.astype("<f4").tobytes())


def is_gaussian_file(path: Union[str, Path]) -> bool:
    """Tell whether a PLY file has the properties of Gaussians."""
    names = {name for name, _ in _header(Path(path).read_bytes()).properties}
    return {"x", "opacity", "scale_0", "rot_0", "f_dc_0"} <= names


def read_gaussians(path: Union[str, Path]) -> Values:
    """Read what `write_gaussians` or another program wrote; the degree is what the file has.

    Raises:
        UserError: If the file is no PLY of Gaussians, or is cut off.
    """
    data = Path(path).read_bytes()
    header = _header(data)
    names, count = [name for name, _ in header.properties], header.count
    missing = set(column_names(0)) - {"nx", "ny", "nz"} - set(names)
    if missing:
        raise UserError(f"'{path}' holds no Gaussians: it has no {', '.join(sorted(missing))}.")
    rows = _numbers(data, header) if header.format == "ascii" else _records(data, header)
    if rows is None:
        raise UserError(f"'{path}' is cut off or damaged: it should hold {count} Gaussians.")
    rest = sum(name.startswith("f_rest_") for name in names)
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


def _records(data: bytes, header: Header) -> Optional[Columns]:
    """Return the columns of a binary file, None if there are not enough rows."""
    kind = np.dtype(list(header.properties))
    if len(data) < header.start + header.count * kind.itemsize:
        return None
    rows = np.frombuffer(data, dtype=kind, count=header.count, offset=header.start)
    return {name: rows[name] for name in kind.names}


def _numbers(data: bytes, header: Header) -> Optional[Columns]:
    """Return the columns of a text file, None if there are not enough rows, or no numbers."""
    words = data[header.start :].split(maxsplit=header.count * len(header.properties))
    try:
        table = np.array(words[: header.count * len(header.properties)], dtype=np.float64)
        table = table.reshape(header.count, len(header.properties))
    except ValueError:
        return None
    return {name: table[:, column] for column, (name, _) in enumerate(header.properties)}


def _header(data: bytes) -> Header:
    mark = re.search(rb"end_header\r?\n", data[: 1 << 16])
    head = data[: mark.start()] if mark else b""
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
    kind = [line[1] for line in lines if line[:1] == ["format"] and len(line) == 3]
    elements = [line for line in lines if line[:1] == ["element"]]
    known = lines[:1] == [["ply"]] and bool(kind) and kind[0] in BYTE_ORDERS
    if not known or not elements or elements[0][1] != "vertex":
        return Header()
    begin = lines.index(elements[0]) + 1
    end = lines.index(elements[1]) if len(elements) > 1 else len(lines)
    found = [line for line in lines[begin:end] if line[:1] == ["property"]]
    if any(line[1] not in NUMPY_TYPES for line in found):
        return Header()
    order = BYTE_ORDERS[kind[0]]
    properties = tuple((line[2], order + NUMPY_TYPES[line[1]]) for line in found)
    return Header(mark.end(), int(elements[0][2]), kind[0], properties)
