"""Put the experiment scripts, which belong to no package, on the import path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-reward-sds" / "experiments"))
