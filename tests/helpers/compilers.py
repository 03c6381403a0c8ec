"""Skipping what needs a C compiler."""

import pytest

from threestudio.models.networks.compiled import BuildError, compiler


def has_compiler() -> bool:
    """Tell whether a C compiler is named or on the path."""
    try:
        return bool(compiler())
    except BuildError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C compiler: cc, gcc, clang")
