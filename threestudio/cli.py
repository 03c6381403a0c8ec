"""The command line. Arguments are read before torch is imported, so `--help` is quick."""

import argparse
import linecache
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from threestudio.utils.errors import UserError

USER_ERROR = 2
"""Exit code for what the user can fix, as argparse uses."""
CHECKER = "beartype.beartype"
"""What `--typecheck` checks annotations with."""
TERMINATED = 128 + 15
"""Exit code after SIGTERM, as shells have it."""

EPILOG = """\
Settings of the YAML are changed by overrides, `key=value`, for example

  python launch.py --config custom/threestudio-reward-sds/configs/blocks-mvdream-reward-sds.yaml \\
      --train "system.prompt_processor.prompt=a red cube on the left of a blue sphere" seed=1

A run writes its configuration, metrics, pictures and checkpoints to
<exp_root_dir>/<name>/<tag>@<time>/. Ctrl+C ends the training early and goes on to the
turntable, twice quits. Continue a run, or look at it again, with

  python launch.py --config <run>/configs/parsed.yaml --train resume=<run>/ckpts/last.ckpt
  python launch.py --config <run>/configs/parsed.yaml --test resume=<run>/ckpts/last.ckpt
  python launch.py --config <run>/configs/parsed.yaml --export resume=<run>/ckpts/last.ckpt
"""
MODES = {
    "train": "train, then render the turntable",
    "validate": "render the validation views",
    "test": "render the turntable",
    "export": "save a mesh of the scene; of 2D systems, the images",
}


def build_parser() -> argparse.ArgumentParser:
    """Describe the flags; everything else on the command line is an override."""
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Train and look at 3D scenes made from text.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        required=True,
        help="path of the YAML; more YAMLs may follow, settings of later ones win",
    )
    parser.add_argument(
        "--gpu",
        default="0",
        help="GPUs to use, e.g. 0 or 0,1 (default 0; the CPU is used where there is none, "
        "or with -1; ignored if CUDA_VISIBLE_DEVICES is set)",
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    for name, what in MODES.items():
        mode.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument(
        "--typecheck", action="store_true", help="check the shapes of all tensors while running"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="log more, and show tracebacks of all errors"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the YAML")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0; 2 for what the user can fix (one message, no traceback); 143 after SIGTERM.
        Other errors are raised.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_intermixed_args(argv)
    _set_environment(args.gpu)
    mode = next(mode for mode in MODES if getattr(args, mode))
    try:
        return _run(args, mode, argv)
    except Exception as error:
        if args.verbose or not is_for_user(error):
            raise
        sys.stderr.write(f"\nError: {describe(error)}\n")
        return USER_ERROR


def _set_environment(gpus: str) -> None:
    """Set what must be in the environment before torch starts."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpus)
    # torch's OpenMP threads spin while they wait, which costs a factor of ten on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _run(args: argparse.Namespace, mode: str, argv: list[str]) -> int:
    if args.typecheck:
        from jaxtyping import install_import_hook

        install_import_hook(
            ["threestudio.data", "threestudio.models", "threestudio.systems"], CHECKER
        )
    import torch

    from threestudio.run import run
    from threestudio.utils.logging import color_logs, info

    logging.getLogger("pytorch_lightning").setLevel(logging.DEBUG if args.verbose else logging.INFO)
    for chatter in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(chatter).setLevel(logging.DEBUG if args.verbose else logging.WARNING)
    color_logs(sys.stderr.isatty())
    if not torch.cuda.is_available():
        info("No GPU found: running on the CPU.")
    command = f"python launch.py {shlex.join(argv)}\n{args}"
    configs = [args.config, *(word for word in args.overrides if _is_yaml(word))]
    overrides = [word for word in args.overrides if not _is_yaml(word)]
    result = run(configs, overrides, mode=mode, command=command)
    return TERMINATED if result.terminated else 0


def _is_yaml(word: str) -> bool:
    """Tell whether a word without a flag is a further YAML rather than an override."""
    return "=" not in word and word.endswith((".yaml", ".yml"))


def is_for_user(error: BaseException) -> bool:
    """Tell whether an error's message is meant for the user: a traceback would only hide it.

    That is a `UserError`, or an ordinary error that a `raise` statement of the runtime or of an
    extension raised on purpose. What Python or a library raises is a defect: its traceback stays.
    """
    if isinstance(error, UserError):
        return True
    if not isinstance(error, (ValueError, TypeError, OSError, ImportError, RuntimeError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    ours = (Path(__file__).resolve().parent, Path("custom").resolve())
    is_ours = any(folder in Path(last.filename).resolve().parents for folder in ours)
    return is_ours and linecache.getline(last.filename, last.lineno or 0).lstrip()[:5] == "raise"


def describe(error: BaseException) -> str:
    """Return an error's message with its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])
