"""Names that extensions take from here, and the axes of all shape annotations.

Axes: `K` candidates, `B` images in the batch, `G` scenes (`B = G * V`), `V` views per scene, `C H
    W` image,
`c h w` latent, `S` tokens, `D` features, `N` any flat count, `T` training timesteps. Candidates
come first: `"K B c h w"`. An annotation with one axis starts with a space, `Float[Tensor, " K"]`.
"""

from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Sized,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from beartype import beartype as typechecker
from jaxtyping import Bool, Complex, Float, Inexact, Int, Integer, Num, Shaped, UInt
from omegaconf import DictConfig
from torch import Tensor

Number = Union[int, float]
"""A number as YAMLs write them; the checker of the tests does not take `1` for a `float`."""

__all__ = [
    "Any",
    "Bool",
    "Callable",
    "Complex",
    "Dict",
    "DictConfig",
    "Float",
    "Inexact",
    "Int",
    "Integer",
    "Iterable",
    "List",
    "Literal",
    "NamedTuple",
    "NewType",
    "Num",
    "Number",
    "Optional",
    "Shaped",
    "Sized",
    "Tensor",
    "Tuple",
    "Type",
    "TypeVar",
    "UInt",
    "Union",
    "typechecker",
]
