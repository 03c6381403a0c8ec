"""What a run folder tells about how it came about: `cmd.txt` and `versions.txt`."""

import importlib.metadata
import os
import platform

import torch

import threestudio
from threestudio.utils.logging import get_rank

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "diffusers",
    "transformers",
    "numpy",
    "omegaconf",
    "safetensors",
)
"""What `versions.txt` tells about, beside the runtime itself."""


def write_notes(folder: str, command: str, resumed: bool) -> None:
    """Write the command, and the versions of what computes the result.

    A resumed run adds to the notes of the run that it continues.
    """
    if get_rank() != 0:
        return
    notes = {"versions.txt": "\n".join(versions()), "cmd.txt": command}
    for name, text in notes.items():
        path = os.path.join(folder, name)
        text = f"\n{text}" if resumed and os.path.exists(path) else text
        with open(path, "a" if resumed else "w", encoding="utf-8") as file:
            file.write(text + "\n")


def versions() -> list[str]:
    """List the versions of the packages, and the machine."""
    lines = [f"threestudio {threestudio.__version__}", f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} -")
    return [
        *lines,
        f"platform {platform.platform()}",
        f"device {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}",
        f"threads {torch.get_num_threads()}",
    ]
