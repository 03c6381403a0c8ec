"""What the training commands share: one resumable loop, moving averages, learning-rate decay and
command-line options."""

import argparse
import copy
import csv
import hashlib
import math
import os
import random
from pathlib import Path
from typing import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from threestudio.utils.misc import set_cpu_only
from threestudio.utils.random import stream

SAVE_EVERY = 200
REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = REPOSITORY / "load" / "blocks"
SEED = 7


def parser(description: str, steps: int | None, batch_size: int) -> argparse.ArgumentParser:
    """Build the options every training command has; `steps` is None where the command decides."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--steps", type=int, default=steps, help="optimiser steps")
    options.add_argument(
        "--batch-size", type=int, default=batch_size, help="scenes or images a step"
    )
    options.add_argument("--seed", type=int, default=SEED)
    options.add_argument(
        "--num-scenes", type=int, default=10_000, help="rendered scenes to train on"
    )
    options.add_argument(
        "--cache",
        type=Path,
        default=REPOSITORY / ".cache" / "blocks",
        help="renders and checkpoints",
    )
    options.add_argument(
        "--output", type=Path, default=WEIGHTS, help="folder of the published weights"
    )
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--restart", action="store_true", help="forget the last checkpoint")
    return options


def parse(options: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, seed the initial weights and keep everything on the chosen device."""
    parsed = options.parse_args(argv)
    torch.manual_seed(parsed.seed)
    set_cpu_only(parsed.device == "cpu")
    return parsed


def digest(*folders: Path) -> str:
    """Digest the weights that a training builds on."""
    total = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.safetensors")):
            total.update(file.read_bytes())
    return total.hexdigest()[:12]


def python_rng(generator: torch.Generator) -> random.Random:
    """Derive a generator for lists and words from one for tensors."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))


class Trainer:
    """Train modules step by step; a killed run goes on from its last checkpoint and repeats the
    same draws.

    Args:
        name: Names the checkpoint in the cache and the loss curve in the output folder.
        modules: What is trained, by name.
        options: Parsed command line.
        learning_rate: Peak of AdamW; warms up over 100 steps and decays to zero as a cosine.
        ema_decay: Of the moving average of all weights, which is what gets published.
        inputs: Folders of weights that the training builds on.

    Raises:
        ValueError: If the checkpoint was made from other data, another seed or other inputs.
    """

    def __init__(
        self,
        name: str,
        modules: dict[str, nn.Module],
        options: argparse.Namespace,
        learning_rate: float,
        ema_decay: float = 0.999,
        inputs: Sequence[Path] = (),
    ) -> None:
        self.identity = f"{options.num_scenes} scenes, seed {options.seed}, on {digest(*inputs)}"
        self.name, self.options, self.ema_decay = name, options, ema_decay
        self.modules = nn.ModuleDict(modules).to(options.device)
        self.averages = copy.deepcopy(self.modules).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.modules.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self._learning_rate_factor
        )
        self.step = 0
        self.losses: list[dict[str, float]] = []
        self.checkpoint = Path(options.cache) / f"{name}.pt"
        if self.checkpoint.exists() and not options.restart:
            self._restore()

    def _learning_rate_factor(self, step: int) -> float:
        progress = min(step / self.options.steps, 1.0)
        return min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress))

    def fit(self, losses_of: Callable[[int, torch.Generator], dict[str, Tensor]]) -> None:
        """Run until `options.steps`; `losses_of(step, generator)` returns named losses that are
        summed."""
        bar = tqdm(total=self.options.steps, initial=self.step, desc=self.name, mininterval=5)
        while self.step < self.options.steps:
            losses = losses_of(self.step, stream(self.name, self.step, seed=self.options.seed))
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.stack(list(losses.values())).sum()
            if not total.isfinite():
                raise RuntimeError(
                    f"{self.name}: the loss is {total.item()} at step {self.step}. "
                    "The last checkpoint is untouched; lower the learning rate and start again."
                )
            total.backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self.optimizer.step()
            self.scheduler.step()
            self._average()
            self.step += 1
            if self.step % 20 == 0:
                self.losses.append(
                    {"step": self.step, **{key: loss.item() for key, loss in losses.items()}}
                )
                bar.set_postfix(
                    {key: f"{loss.item():.4f}" for key, loss in losses.items()}, refresh=False
                )
            if self.step % SAVE_EVERY == 0 or self.step == self.options.steps:
                self._save()
            bar.update()
        self._write_curve()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for average, value in zip(
            self.averages.parameters(), self.modules.parameters(), strict=True
        ):
            average.lerp_(value, 1 - decay)
        for average, value in zip(self.averages.buffers(), self.modules.buffers(), strict=True):
            average.copy_(value)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "identity": self.identity,
            "modules": self.modules.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "losses": self.losses,
        }
        save_atomically(state, self.checkpoint)

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.options.device, weights_only=True)
        if state["identity"] != self.identity:
            raise ValueError(
                f"{self.checkpoint} was trained with {state['identity']}; this command says "
                f"{self.identity}. Use the same settings, or --restart to begin anew."
            )
        self.modules.load_state_dict(state["modules"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.losses = state["step"], state["losses"]

    def _write_curve(self) -> None:
        if not self.losses:
            return
        path = Path(self.options.output) / "curves" / f"{self.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.losses[0]))
            writer.writeheader()
            writer.writerows(
                {key: value if key == "step" else f"{value:.5g}" for key, value in row.items()}
                for row in self.losses
            )


def save_atomically(state: dict, path: Path) -> None:
    """Save so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def mixed_precision(device: str, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16: large convolutions gain on a recent CPU, everything does on a GPU."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
