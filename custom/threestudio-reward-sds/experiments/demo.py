"""Train the baseline and RewardSDS side by side on one caption, and show both: `make demo`.

Same caption, same seed, same prior, one CPU thread each; the two YAMLs differ in the guidance block
only. The judge's verdict is printed whatever it is.
"""

import argparse
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pictures import Cell, draw_rows
from plan import Evaluation, Trial
from report import verdict_line
from rows import Row
from run import load_extensions, prepare

CONFIGS = {
    "baseline": "custom/threestudio-reward-sds/configs/blocks-mvdream-sds.yaml",
    "RewardSDS": "custom/threestudio-reward-sds/configs/blocks-mvdream-reward-sds.yaml",
}
EVALUATION = Evaluation(reward={"pretrained_model_name_or_path": "load/blocks/reward"})
CAPTION = "a blue torus on the right of a yellow cone"
"""A dev caption on which the baseline goes wrong with seed 0: chosen to show what a reward does."""
MARKER = ".made-by-demo"
"""File by which the demo knows a folder as its own."""
REFRESH_SECONDS = 0.5
PLAIN_REFRESH_SECONDS = 10.0
"""Time between progress lines when the output is not a terminal."""


def main(argv: list[str] | None = None) -> int:
    """Run both methods in two processes, or with `--only` one of them in this one."""
    args = _parse_arguments(argv)
    prepare(args.threads)
    folder = Path(args.output)
    if args.only:
        train_one(args.only, args.caption, args.seed, folder, tuple(args.overrides))
        return 0
    if not renew(folder):
        sys.stderr.write(
            f"{folder} has files that are not of this demo. Give an empty or new folder "
            "(`make demo OUT=outputs/demo`).\n"
        )
        return 2
    sys.stdout.write(f'"{args.caption}", seed {args.seed}: baseline and RewardSDS side by side\n')
    failed = train_both(args, folder)
    if failed:
        for method in failed:
            sys.stderr.write(f"{method} failed; its output is in {_log(folder, method)}:\n")
            sys.stderr.write("\n".join(_log(folder, method).read_text().splitlines()[-12:]) + "\n")
        return 1
    sys.stdout.write(summary(args.caption, args.seed, folder))
    return 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default="outputs/demo", help="folder for the results")
    parser.add_argument("--caption", default=CAPTION, help=f"what to make (default: {CAPTION})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads of each (default: half of them)")
    parser.add_argument("--only", choices=tuple(CONFIGS), help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="overrides of both, e.g. trainer.max_steps=50")
    args = parser.parse_args(argv)
    args.threads = args.threads or max(1, (os.cpu_count() or 1) // len(CONFIGS))
    return args


def renew(folder: Path) -> bool:
    """Make the demo's folder, without what an earlier demo wrote; other files stay.

    Returns:
        False, and nothing is changed, if the folder has files but no demo ever made it.
    """
    marker = folder / MARKER
    if folder.exists() and not marker.exists() and (folder.is_file() or any(folder.iterdir())):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("This folder is written by the demo.\n", encoding="utf-8")
    shutil.rmtree(folder / "runs", ignore_errors=True)
    for method in CONFIGS:
        video = folder / f"{method}.mp4"
        for file in (_log(folder, method), _views(folder, method), _result(folder, method), video):
            file.unlink(missing_ok=True)
    (folder / "comparison.png").unlink(missing_ok=True)
    return True


def train_one(
    method: str, caption: str, seed: int, folder: Path, overrides: tuple[str, ...]
) -> None:
    """Train and judge one method; write `<method>.json`, `<method>-views.png` and its video."""
    load_extensions()
    importlib.import_module("torch").set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    trial = Trial(method, caption, seed, CONFIGS[method], (), Path(CONFIGS[method]).name)
    row = importlib.import_module("trial").run_trial(
        trial,
        EVALUATION,
        folder=folder / "runs",
        picture=_views(folder, method),
        extra=overrides,
        keep=True,
    )
    for video in sorted((folder / "runs" / method).rglob("*-test.mp4")):
        shutil.copy(video, folder / f"{method}.mp4")
    _result(folder, method).write_text(json.dumps(dataclasses.asdict(row)), encoding="utf-8")


def train_both(args: argparse.Namespace, folder: Path) -> list[str]:
    """Start both processes and show their progress until they end.

    Returns:
        The methods that failed.
    """
    children = {}
    for method in CONFIGS:
        command = [sys.executable, __file__, "--only", method, "--caption", args.caption]
        command += ["--seed", str(args.seed), "--output", str(folder)]
        command += ["--threads", str(args.threads), *args.overrides]
        with _log(folder, method).open("w") as log:
            children[method] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        watch(children, folder)
    except KeyboardInterrupt:
        for child in children.values():
            child.terminate()
        raise
    return [
        method
        for method, child in children.items()
        if child.returncode != 0 or not _result(folder, method).exists()
    ]


def watch(children: dict[str, subprocess.Popen], folder: Path) -> None:
    """Show the last progress line of each child: redrawn in a terminal, now and then elsewhere."""
    live = sys.stdout.isatty()
    started = shown = time.monotonic()
    drawn = False
    while True:
        running = any(child.poll() is None for child in children.values())
        now = time.monotonic()
        if live or not running or now - shown >= PLAIN_REFRESH_SECONDS:
            shown = now
            if live and drawn:
                sys.stdout.write(f"\x1b[{len(children)}A")
            for method in children:
                line = f"{method:<10}{progress(_log(folder, method))}"
                if live:
                    line = "\x1b[2K" + line[: shutil.get_terminal_size().columns - 1]
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
            drawn = True
        if not running:
            sys.stdout.write(f"done after {now - started:.0f} s\n")
            return
        time.sleep(REFRESH_SECONDS)


def progress(log: Path) -> str:
    """Take the newest progress bar out of a log, without the bar itself: it would fill the line."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    bars = re.findall(r"(Training|Testing).*?\| (\d+/\d+ \[[^\]]*\])", text)
    return " ".join(bars[-1]) if bars else "loading"


def summary(caption: str, seed: int, folder: Path) -> str:
    """Draw the picture, and say in words what came out and where it is."""
    found = {m: Row(**json.loads(_result(folder, m).read_text())) for m in CONFIGS}
    picture = folder / "comparison.png"
    drawn = []
    for method, row in found.items():
        cell = Cell(_views(folder, method), verdict_line(row), row.relation_ok and row.looks_ok)
        drawn.append(
            (method, cell, [f"reward {row.reward:.3f}", "the judge saw", *row.verdict.split(", ")])
        )
    draw_rows(drawn, f'"{caption}", seed {seed}: front, side, back, side', picture, scale=3)
    lines = ["", f"{'':<11}{'reward':>8}{'seconds':>9}{'network images':>16}  verdict"]
    for method, row in found.items():
        numbers = f"{row.reward:>8.3f}{row.seconds:>9.0f}{row.unet_calls:>16}"
        lines.append(f"{method:<11}{numbers}  {verdict_line(row)}")
    lines += ["", f"Picture     {picture}"]
    lines += [f"Turntable   {video}" for video in sorted(folder.glob("*.mp4"))]
    lines += [
        f"Run folders {folder / 'runs'} (config, metrics, candidate sheets, checkpoints)",
        "",
    ]
    return "\n".join(lines)


def _log(folder: Path, method: str) -> Path:
    return folder / f"{method}.log"


def _views(folder: Path, method: str) -> Path:
    return folder / f"{method}-views.png"


def _result(folder: Path, method: str) -> Path:
    return folder / f"{method}.json"


if __name__ == "__main__":
    sys.exit(main())
