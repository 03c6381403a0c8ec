"""What can be set about a guidance, and how a block is checked before anything is built."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional

from threestudio.utils.base import BaseModule

from .errors import GuidanceConfigError
from .schedules import percent_faults, schedule_faults, window_faults
from .search import PREVIEW_SPACINGS
from .settings import examine, find_role


class ConfiguredGuidance(BaseModule):
    """A guidance made of a prior, an objective, a reward and a strategy, each chosen by name."""

    preset: ClassVar[Dict[str, Any]] = {}
    """Values of keys that the config leaves out, see `presets.py`."""

    @dataclass
    class Config(BaseModule.Config):
        prior_type: str = "stable-diffusion-prior"
        """Pretrained model; its keys stand flat in this block."""
        prior: dict = field(default_factory=dict)
        """The prior's keys, if not flat."""
        objective_type: str = "sds-objective"
        """What is distilled; its keys stand flat in this block."""
        objective: dict = field(default_factory=dict)
        """The objective's keys, if not flat."""
        grad_clip: Any = None
        """Bound on each element of the combined gradient, a number or schedule; null: none."""
        min_step_percent: Any = 0.02
        """Smallest timestep as a share of the prior's, a number or schedule."""
        max_step_percent: Any = 0.98
        """Largest timestep as a share of the prior's, a number or schedule."""
        sqrt_anneal: bool = False
        """HiFA's annealed timestep in place of the draw; needs `trainer_max_steps`."""
        trainer_max_steps: Optional[int] = None
        """Length of the training, normally `${trainer.max_steps}`."""
        max_items_eval: int = 4
        """Accepted for baseline configs; unused."""
        n_noises: int = 7
        """K, candidates per step (official YAML 7, paper's 2D runs 10). 1: plain objective."""
        reward_model_type: str = "clip"
        """Reward, found as `reward-model-<name>` (official YAML: image-reward)."""
        reward_model: dict = field(default_factory=dict)
        """The reward's settings."""
        reward_strategy_type: str = "min-max"
        """From rewards to weights, found as `reward-strategy-<name>` (paper: min-max)."""
        reward_strategy: dict = field(default_factory=dict)
        """The strategy's settings."""
        reward_duration: Any = 1.0
        """When the reward is used: a share of `trainer_max_steps`, or [start, end] in steps. All of
        the training as in the paper's 2D runs; official 3D YAML: 0.7."""
        reward_view_dependent: bool = False
        """Give the reward the prompt of the view (", front view"); the paper's runs do not."""
        preview_steps: int = 15
        """S, denoising steps of a preview (paper: 15). 1 is nearly free, 0 decodes the noise."""
        preview_spacing: str = "uniform"
        """ "uniform", or "official": the release's grid of `preview_steps` points."""
        preview_guidance_scale: float = 7.5
        """Guidance scale of previews, `eps_u + s (eps_c - eps_u)` (official 2D: 7.5, 3D: 50)."""
        chunk_size: int = 16
        """Images per network call, at least one scene. Bounds the memory; results do not change."""
        sheet_every: int = 0
        """Steps between candidate sheets, 0 for none."""

    cfg: Config

    def __init__(self, cfg: Optional[Any] = None, *args: Any, **kwargs: Any) -> None:
        nested, faults = examine(type(self), cfg)
        if faults:
            raise GuidanceConfigError("The guidance block is wrong:\n- " + "\n- ".join(faults))
        super().__init__(nested, *args, **kwargs)

    @classmethod
    def config_faults(cls, cfg: Any) -> List[str]:
        """List all faults of a guidance block without loading any model."""
        return examine(cls, cfg)[1]

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the guidance's own settings; empty when they are fine."""
        faults = [
            f"`system.guidance.{key}` is {cfg[key]}, but must be {least} or more."
            for key, least in (
                ("n_noises", 1),
                ("preview_steps", 0),
                ("chunk_size", 1),
                ("sheet_every", 0),
            )
            if cfg[key] < least
        ]
        if cfg.preview_spacing not in PREVIEW_SPACINGS:
            faults.append(
                f"`system.guidance.preview_spacing` is '{cfg.preview_spacing}', but must be one of "
                f"{', '.join(PREVIEW_SPACINGS)}."
            )
        if cfg.sqrt_anneal and cfg.trainer_max_steps is None:
            faults.append(
                "`sqrt_anneal` needs the length of the training. Add "
                "`system.guidance.trainer_max_steps: ${trainer.max_steps}`."
            )
        faults += percent_faults(cfg.min_step_percent, cfg.max_step_percent)
        if cfg.grad_clip is not None:
            faults += schedule_faults("system.guidance.grad_clip", cfg.grad_clip)
        return faults + window_faults(cfg.reward_duration, cfg.trainer_max_steps)

    def _build(self, role: str) -> Any:
        found, _ = find_role(role, self.cfg[f"{role}_type"])
        return found(self.cfg[role])
