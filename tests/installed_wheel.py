"""mmpref as a user gets it: the wheel and the source distribution, built from the files that git knows, and the wheel
installed into an empty environment.

The environment has the libraries of the one that runs the tests (by a .pth file) and none of its mmpref; its commands
start in a folder elsewhere, with an empty home and no variables of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.loaded_scripts import script

ROOT = Path(__file__).resolve().parents[1]


distributions = script("distributions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment in which ``pip install mmpref-*.whl`` was run.

    Attributes:
        folder: the environment; ``bin/python`` and ``bin/mmpref`` are in it.
        wheel, sdist: what was built.
        home: an empty folder, the home of whoever runs a command.
    """

    folder: Path
    wheel: Path
    sdist: Path
    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def share(self) -> Path:
        """Where the wheel put cards, launch profiles and pages."""
        return self.folder / "share" / "mmpref"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command: no more than a new account has, and no hub."""
        return {
            "PATH": os.pathsep.join([str(self.folder / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *command: str, cwd: Path, timeout: float = 280, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as ``run("mmpref", "--version", cwd=...)``; its output as text, whatever its exit code."""
        found = shutil.which(command[0], path=self.environment["PATH"]) or command[0]
        return subprocess.run(
            [found, *command[1:]],
            cwd=cwd,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def empty_environment(folder: Path, *, libraries: bool = True) -> Path:
    """A virtual environment without pip.

    Args:
        folder: its place.
        libraries: let it find what is installed where the tests run.

    Returns:
        Its interpreter.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    if libraries:
        places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        # a .pth file in a folder that a .pth file names is not read: the editable mmpref stays outside
        (packages / "libraries.pth").write_text("".join(f"{place}\n" for place in sorted(places)), encoding="utf-8")
    return folder / "bin" / "python"


def install(wheel: Path, python: Path) -> None:
    """Install a wheel alone; nothing is looked for on an index."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def make(folder: Path) -> Installed:
    """Build both distributions below a folder and install the wheel there; made once, found the next time."""
    dist, environment, home = folder / "dist", folder / "environment", folder / "home"
    done = folder / "done"
    if not done.exists():
        distributions.build(distributions.copy_tree(ROOT, folder / "source"), dist)
        home.mkdir()
        install(next(dist.glob("*.whl")), empty_environment(environment))
        done.touch()
    return Installed(folder=environment, wheel=next(dist.glob("*.whl")), sdist=next(dist.glob("*.tar.gz")), home=home)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed: one build for all processes of a test session."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "installed_wheel"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        return make(folder)
