"""Gaussian splatting for the runtime of this repository, under the names of threestudio's 3DGS
extension (Kerbl et al. 2023, arXiv 2308.04079).

Importing the package registers its components. It needs this repository's runtime; an upstream
checkout has an extension of its own.
"""

from packaging.version import Version

import threestudio

if not getattr(threestudio, "IS_REWARD_SDS_RUNTIME", False):
    raise ImportError(
        "This threestudio-3dgs needs the RewardSDS runtime. In upstream's threestudio use "
        "upstream's own threestudio-3dgs with our guidance (threestudio-reward-sds)."
    )
if Version(getattr(threestudio, "__version__", "0")) < Version("0.2.1"):
    raise ValueError(
        "threestudio-3dgs needs threestudio 0.2.1 or later, found "
        f"{getattr(threestudio, '__version__', 'no version')}. Update the checkout: git pull"
    )

from . import exporters, geometry, renderers, systems  # noqa: E402, F401
