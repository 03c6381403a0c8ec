"""Optimizers that YAMLs name and `torch.optim` does not have."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor
from torch.optim import Optimizer

from threestudio.utils.typing import Number


class Adan(Optimizer):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677, algorithm 1).

    With gradient g, the change of the gradient d (0 at the first step) and decay rates b1, b2, b3:

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) d,  n = b3 n + (1 - b3) (g + b2 d)^2
        p = (p - lr (m' + b2 v') / (sqrt(n') + eps)) / (1 + lr weight_decay)

    where m', v', n' are corrected for their start at 0. (The paper's betas are 1 - b.)

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: The decay rates b1, b2, b3.
        eps: Added to the denominator.
        weight_decay: Strength of the decay.
        max_grad_norm: The gradients of all parameters together are scaled down to this norm; 0
            leaves them alone.
        no_prox: Decay the weights before the step, `p (1 - lr weight_decay)`, instead of after it.
        foreach: Accepted for upstream's YAMLs; makes no difference.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number = 1e-3,
        betas: Sequence[Number] = (0.98, 0.92, 0.99),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        max_grad_norm: Number = 0.0,
        no_prox: bool = False,
        foreach: bool = True,
    ) -> None:
        if len(betas) != 3 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"Adan needs three betas in [0, 1), not {list(betas)}.")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "no_prox": no_prox,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Tensor]] = None) -> Any:
        """Take one step; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        shrink = self._shrink()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad * shrink, group)
        return loss

    def _shrink(self) -> Tensor | float:
        """Return the factor that brings the norm of all gradients below `max_grad_norm`."""
        limit = self.param_groups[0]["max_grad_norm"]
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        grads = [grad for grad in grads if grad is not None]
        if limit <= 0 or not grads:
            return 1.0
        norm = torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads]))
        return (limit / (norm + self.param_groups[0]["eps"])).clamp(max=1.0)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["previous"] = grad.clone()
            for name in ("mean", "change", "square"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        difference = grad - state["previous"]
        state["previous"].copy_(grad)
        b1, b2, b3 = group["betas"]
        state["mean"].lerp_(grad, 1.0 - b1)
        state["change"].lerp_(difference, 1.0 - b2)
        state["square"].lerp_((grad + b2 * difference) ** 2, 1.0 - b3)
        m, v, n = (
            state[name] / (1.0 - beta ** state["step"].item())
            for name, beta in (("mean", b1), ("change", b2), ("square", b3))
        )
        decay = group["lr"] * group["weight_decay"]
        if group["no_prox"]:
            parameter.mul_(1.0 - decay)
        parameter.sub_(group["lr"] * (m + b2 * v) / (n.sqrt() + group["eps"]))
        if not group["no_prox"]:
            parameter.div_(1.0 + decay)
