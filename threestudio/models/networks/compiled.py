"""C code of the repository: compiled on first use, kept in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
"""Results are those of the plain operations: nothing is fused, nothing assumed about NaN."""
TIMEOUT = 300
"""Seconds after which a compiler is given up."""


class BuildError(RuntimeError):
    """There is no library; the message says why."""


def load_library(source: Path) -> ctypes.CDLL:
    """Compile a C file, unless the cache has it, and load it.

    Raises:
        BuildError: If there is no compiler, or it fails, or the cache cannot be used.
    """
    try:
        return ctypes.CDLL(str(build(source)))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise BuildError(f"the C compiler failed ({shlex.join(error.cmd)}: {lines[0]})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the C code could not be compiled or loaded ({error})") from error


def build(source: Path) -> Path:
    """Return the library of a C file in the cache; it is compiled if it is not there.

    Its name tells code, compiler, flags and kind of machine apart. Any number of processes may do
    this at once: each compiles for itself, and the finished file takes its place in one step.
    """
    command = compiler()
    about = [source.read_text(encoding="utf-8"), *command, run([*command, "--version"]), *FLAGS]
    about += [platform.system(), platform.machine()]
    key = hashlib.sha256("\0".join(about).encode()).hexdigest()[:20]
    library = cache_folder() / f"{source.stem}-{key}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        fresh = os.path.join(folder, library.name)
        run([*command, *FLAGS, "-o", fresh, str(source)])
        os.replace(fresh, library)
    return library


def compiler() -> list[str]:
    """Return the command of the C compiler: that of the variable `CC`, else one on the path."""
    named = shlex.split(os.environ.get("CC", ""))
    found = [named] if named else [[name] for name in COMPILERS if shutil.which(name)]
    if not found:
        raise BuildError(f"there is no C compiler ({', '.join(COMPILERS)}) on the path")
    return found[0]


def cache_folder() -> Path:
    """Return the folder of compiled code: `$XDG_CACHE_HOME/threestudio`, ~/.cache by default."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(base).expanduser() / "threestudio"


def run(command: list[str]) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    return done.stdout
