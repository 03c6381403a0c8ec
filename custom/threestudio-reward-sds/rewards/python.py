"""A user's own scorer, named in the config as "module:function"."""

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any, Callable, List

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from .base import AbstractRewardModel, RewardError

EXAMPLE = (
    '`reward_model: {function: "my_rewards:score"}` for `def score(images, prompts)` in '
    "my_rewards.py"
)


def find_function(path: str) -> Callable[..., Any]:
    """Import "module:function"; modules of the working directory are found as well.

    Raises:
        ValueError: The text has another form, or there is no such module or function.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(
            f"`function` is '{path}', but must be \"module:function\". Example: {EXAMPLE}."
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way
        raise ValueError(
            f"`function` is '{path}', but module '{module_name}' cannot be imported: "
            f"{type(error).__name__}: {error}. Put the file into {os.getcwd()} or on PYTHONPATH."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise ValueError(
            f"`function` is '{path}', but '{module_name}' has no function '{name}'. It has: "
            f"{', '.join(sorted(public)) or 'none'}."
        )
    return function


@threestudio.register("reward-model-python")
class PythonRewardModel(AbstractRewardModel):
    """Calls `function(images, prompts)`: images [N 3 H W] in [0, 1], a list of N prompts; N scores.

    The scores may be a tensor, an array or a list of numbers. Gradients are never asked for.
    """

    @dataclass
    class Config(BaseObject.Config):
        function: str = ""
        """ "module:function" of the scorer."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        try:
            find_function(cfg.function)
        except ValueError as error:
            return [str(error)]
        return []

    def configure(self) -> None:
        self.function = find_function(self.cfg.function)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        result = self.function(images, prompts)
        try:
            scores = torch.as_tensor(result)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RewardError(
                f"The reward function '{self.cfg.function}' returned {type(result).__name__}, "
                f"which is not {len(prompts)} numbers: {error}. Return a tensor, an array or a "
                "list of numbers."
            ) from error
        return scores.to(images.device, torch.promote_types(scores.dtype, torch.float32))
