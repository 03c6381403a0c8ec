"""Sampling after a small density network that learns where the scene is (mip-NeRF 360, section
3)."""

import copy
from functools import cache
from typing import Any, Optional

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.histograms import borders, interlevel_loss, invert, returned_light
from threestudio.models.networks import (
    ENCODINGS,
    NETWORKS,
    block_faults,
    create_network_with_input_encoding,
)
from threestudio.utils.base import Updateable
from threestudio.utils.checkpoints import to_plain
from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import get_activation
from threestudio.utils.overrides import did_you_mean

SPARSE_AFTER = 1000
LONGEST_GAP = 5.0
NETWORK_KEYS = ("n_input_dims", "n_output_dims", "encoding_config", "network_config")


@cache
def _early_updates() -> tuple[int, ...]:
    due, waited = [], 1
    for step in range(SPARSE_AFTER + 1):
        if waited > LONGEST_GAP * step / SPARSE_AFTER:
            due.append(step)
            waited = 0
        waited += 1
    return tuple(due)


def is_due(step: int) -> bool:
    """Tell whether the network learns at a step.

    It does when more than `gap` steps went by since it last did, where `gap` grows evenly from 0 to
    `LONGEST_GAP` over the first `SPARSE_AFTER` steps: at first always, in the end every sixth time.
    The answer depends on nothing else, so that a resumed run has nothing to remember.
    """
    early = _early_updates()
    if step <= SPARSE_AFTER:
        return step in early
    return (step - early[-1]) % (int(LONGEST_GAP) + 1) == 0


class ProposalEstimator(nn.Module, Updateable):
    """Intervals drawn after the weights of a small density network, which is trained here, on the
    interlevel loss, with an optimizer and scheduler of its own.

    Its parameters ask for gradients only while it learns: the optimizer of the system, which may
    have been given all parameters, and DDP leave them alone. Optimizer and scheduler travel in the
    module's extra state, as tensors, numbers and lists, so that a checkpoint holds everything."""

    box: Float[Tensor, "2 3"]

    def __init__(
        self, box: Float[Tensor, "2 3"], network: Any, optimizer: Any, scheduler: Optional[Any]
    ) -> None:
        super().__init__()
        self.register_buffer("box", box.detach().clone(), persistent=False)
        sizes = {"n_input_dims": 3, "n_output_dims": 1}
        self.network = create_network_with_input_encoding(**{**sizes, **to_plain(network)})
        self.network.requires_grad_(False)
        self.activation = get_activation("shifted_trunc_exp")
        self.settings = to_plain(optimizer), to_plain(scheduler)
        self.step, self.learnt_at = 0, -1
        self._histogram: Optional[tuple[Tensor, Tensor, Tensor]] = None
        self._tools: Optional[tuple[torch.optim.Optimizer, Any]] = None
        self._saved: dict[str, Any] = {}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Remember the step."""
        self.step = global_step

    def density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N"]:
        """Return the network's density at world points inside the box."""
        low, high = self.box
        with torch.autocast(device_type=points.device.type, enabled=False):
            return self.activation(self.network((points - low) / (high - low)))[..., 0]

    def sampling(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        near: Float[Tensor, " R"],
        far: Float[Tensor, " R"],
        counts: tuple[int, int],
        shift: Float[Tensor, " R"],
    ) -> Float[Tensor, "R e"]:
        """Cut rays into intervals of equal weight under the network.

        Args:
            origins: Ray origins.
            directions: Ray directions.
            near: Start of each ray, inside the box.
            far: Its end, inside the box.
            counts: Intervals in which the network is evaluated, and intervals that are returned.
            shift: Where the inner borders are, in either, as in `histograms.borders`.

        Returns:
            Borders of the intervals, from `near` to `far`.
        """
        learns = self.training and self.step != self.learnt_at and is_due(self.step)
        self.network.requires_grad_(learns)
        even = near[:, None] + borders(counts[0], shift) * (far - near)[:, None]
        middle = ((even[:, :-1] + even[:, 1:]) / 2.0)[..., None]
        with torch.set_grad_enabled(learns):
            density = self.density(origins[:, None] + middle * directions[:, None])
            weights = returned_light(density, even)
        edges = invert(even, weights.detach(), borders(counts[1], shift))
        self._histogram = (edges, even, weights) if learns else None
        return edges

    def learn(self, weights: Float[Tensor, "P 1"]) -> None:
        """Train the network, if the step is due, on what the scene weighed in the last intervals.

        Rendering more often in one step does not train more often.

        Args:
            weights: Weight of each interval, ray by ray; anything if no ray met the box.
        """
        if self.step == self.learnt_at:
            return
        self.learnt_at = self.step
        optimizer, scheduler = self._tools = self._tools or self._make_tools()
        if is_due(self.step):
            self._descend(optimizer, weights.detach().float())
        if scheduler is not None:
            scheduler.step()

    def _descend(self, optimizer: torch.optim.Optimizer, weights: Float[Tensor, "P 1"]) -> None:
        parameters = list(self.network.parameters())
        if self._histogram is not None:
            edges, even, proposed = self._histogram
            found = weights.reshape(len(edges), -1)
            interlevel_loss(edges, found, even, proposed).backward()
            self._histogram = None
        average_gradients(parameters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.network.requires_grad_(False)

    def _make_tools(self) -> tuple[torch.optim.Optimizer, Any]:
        """Build optimizer and scheduler when they are needed: the parameters are where they stay by
        then, and saved states can follow them there."""
        # here, because threestudio.systems brings Lightning with it
        from threestudio.systems.utils import parse_optimizer, parse_scheduler_to_instance

        optimizer = parse_optimizer(self.settings[0], self.network)
        scheduler = None
        if self.settings[1] is not None:
            scheduler = parse_scheduler_to_instance(self.settings[1], optimizer)
        if self._saved:
            optimizer.load_state_dict(self._saved["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(self._saved["scheduler"])
        return optimizer, scheduler

    def get_extra_state(self) -> dict[str, Any]:
        """Return the states of optimizer and scheduler; empty before the first step."""
        if self._tools is None:
            return self._saved
        optimizer, scheduler = self._tools
        saved = {} if scheduler is None else scheduler.state_dict()
        return {"optimizer": optimizer.state_dict(), "scheduler": saved}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the states of optimizer and scheduler."""
        self._tools, self._saved = None, copy.deepcopy(state)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Give all processes the mean of their gradients; nothing if there is one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def proposal_faults(cfg: Any) -> list[str]:
    """List what is wrong with the three blocks of a renderer that describe a proposal network."""
    network = to_plain(cfg.proposal_network_config)
    return (
        _network_faults("system.renderer.proposal_network_config", network)
        + _optimizer_faults("system.renderer.prop_optimizer_config", cfg.prop_optimizer_config)
        + _scheduler_faults("system.renderer.prop_scheduler_config", cfg.prop_scheduler_config)
    )


def _network_faults(key: str, config: Optional[dict[str, Any]]) -> list[str]:
    faults = [
        f"`{key}` has no key `{name}`.{did_you_mean(name, NETWORK_KEYS)}"
        for name in config or {}
        if name not in NETWORK_KEYS
    ]
    for name, table in (("encoding_config", ENCODINGS), ("network_config", NETWORKS)):
        block = (config or {}).get(name)
        if not isinstance(block, dict):
            faults.append(
                f"`system.renderer.estimator` proposal needs `{key}.{name}`, a mapping with "
                "`otype` and its settings, as `system.geometry` has for its own networks."
            )
        else:
            faults += block_faults(f"{key}.{name}", block, table)
    return faults


def _optimizer_faults(key: str, config: Any) -> list[str]:
    from threestudio.systems.utils import optimizer_faults

    if not config:
        return [
            f"`system.renderer.estimator` proposal needs `{key}`, e.g. "
            "{name: Adam, args: {lr: 0.01}}."
        ]
    return [fault.replace("system.optimizer", key) for fault in optimizer_faults(config)]


def _scheduler_faults(key: str, config: Any) -> list[str]:
    from threestudio.systems.utils import parse_scheduler_to_instance

    if config is None:
        return []
    trial = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        parse_scheduler_to_instance(config, trial)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        return [f"`{key}` describes no scheduler: {type(error).__name__}: {error}."]
    return []
