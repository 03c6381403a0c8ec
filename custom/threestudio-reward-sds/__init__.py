"""RewardSDS for threestudio: reward-weighted score distillation (arXiv 2503.09601).

Importing the package registers its components; under the runtime of this repository it also
registers the baselines as presets of the same composition (`presets.py`). Needs threestudio 0.2.0
or later.
"""

from packaging.version import Version

import threestudio

if Version(getattr(threestudio, "__version__", "0")) < Version("0.2.0"):
    raise ValueError(
        "threestudio-reward-sds needs threestudio 0.2.0 or later, found "
        f"{getattr(threestudio, '__version__', 'no version')}. Update the checkout: git pull"
    )

from . import guidance, objectives, priors, rewards, strategies  # noqa: E402, F401
from .presets import register_presets  # noqa: E402

register_presets()
