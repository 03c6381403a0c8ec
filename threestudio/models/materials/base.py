"""The interface of materials."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseMaterial(BaseModule):
    """Turn what a geometry says about a point into colour."""

    requires_normal: bool = False
    requires_tangent: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "*N C"]:
        """Return the colour of points; keyword arguments are the geometry's outputs and the
        batch."""
        raise NotImplementedError

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the maps that an exporter stores; nothing by default."""
        return {}
