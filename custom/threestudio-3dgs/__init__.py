"""Gaussian splatting for the runtime of this repository, under the names of threestudio's 3DGS
extension (Kerbl et al. 2023, arXiv 2308.04079).

Importing the package registers its components. It needs threestudio 0.2.1 or later, and the modules
of this repository's runtime.
"""

from packaging.version import Version

import threestudio

if Version(getattr(threestudio, "__version__", "0")) < Version("0.2.1"):
    raise ValueError(
        "threestudio-3dgs needs threestudio 0.2.1 or later, found "
        f"{getattr(threestudio, '__version__', 'no version')}. Update the checkout: git pull"
    )

from . import exporters, geometry, renderers, systems  # noqa: E402, F401
