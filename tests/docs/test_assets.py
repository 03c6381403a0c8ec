"""Every asset under load/ is listed with its checksum, and all of them stay small."""

import hashlib
from pathlib import Path

LOAD = Path(__file__).resolve().parents[2] / "load"
SUMS = LOAD / "SHA256SUMS"
BUDGET_MB = 25
"""Size of all weights together."""


def listed() -> dict[str, str]:
    """Read `<digest>  load/<path>` lines, as `sha256sum` writes them."""
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def assets() -> dict[str, Path]:
    """List the files that need a checksum."""
    return {
        path.relative_to(LOAD.parent).as_posix(): path
        for path in sorted(LOAD.rglob("*"))
        if path.is_file() and path.suffix not in (".md", ".tmp") and path != SUMS
    }


def test_every_asset_has_its_checksum():
    found = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in assets().items()}
    assert found == listed(), "run the command of load/README.md"


def test_weights_stay_within_the_budget():
    weights = [path for path in assets().values() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) < BUDGET_MB * 1e6
