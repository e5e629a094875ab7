"""What is installed beside mmpref, and what of it is missing, too old or of the wrong build.

Nothing is imported to find that out: versions are the names of folders on ``sys.path``, what mmpref asks for is in its
own metadata, and whether torch was built for a GPU is in one of its files. That takes a few milliseconds, so that the
first command says it in one line, before the seconds in which torch is loaded.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mmpref.errors import ConfigError

MODEL_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets")
"""What trains and answers; scoring saved answers and reporting do without."""
_WITHOUT_MODEL = ("score", "export", "report", "agreement")
"""Commands that never load a model: they run where none of those libraries is installed."""
_OF_THE_COMMAND_LINE = ("typer", "rich")
"""What even ``--help`` and ``doctor`` need."""
_MODULES = {"pillow": "PIL", "pyyaml": "yaml"}
"""Library -> what it is imported as, where that is another name."""
_ROOT = Path("/")
_REQUIREMENT = re.compile(r"""\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*(?:>=\s*([\w.]+))?""")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One library that mmpref asks for.

    Attributes:
        name: as an index has it, in lower case.
        floor: the oldest version, as ``5.17``; empty for any.
        extra: with which extra; empty for the core.
    """

    name: str
    floor: str = ""
    extra: str = ""

    @property
    def written(self) -> str:
        """As pip takes it."""
        return f"{self.name}>={self.floor}" if self.floor else self.name

    def fault(self) -> str | None:
        """What is wrong with what is installed: ``is not installed``, or ``5.1.0 is older than 5.17``; None if nothing.

        The release numbers count: a pre-release or a build of the floor itself will do, as in images of NVIDIA.
        """
        version = _quick_versions().get(self.name)
        if version is None or _older(version, self.floor):
            version = _version(self.name)  # slower, and knows every kind of installation
        if version is None:
            return None if _can_be_imported(_MODULES.get(self.name, self.name)) else "is not installed"
        return f"{version} is older than {self.floor}" if _older(version, self.floor) else None


def refuse_unusable(arguments: Sequence[str]) -> None:
    """Refuse a command where a library that it needs is missing, or older than mmpref's floor.

    ``--help``, ``--version`` and ``doctor``, which says the same line by line, need the command line's own alone.

    Args:
        arguments: of the command line.

    Raises:
        ConfigError: names them all, and the command that installs them.
    """
    command = next((word for word in arguments if not word.startswith("-")), "")
    own = not command or command == "doctor" or not {"-h", "--help", "--version"}.isdisjoint(arguments)
    wrong: dict[Requirement, str] = {}
    for required in core():
        fault = required.fault() if not own or required.name in _OF_THE_COMMAND_LINE else None
        unused = command in _WITHOUT_MODEL and required.name in MODEL_LIBRARIES and fault == "is not installed"
        if fault is not None and not unused:
            wrong[required] = fault
    if wrong:
        said = ", ".join(f"{required.name} {fault}" for required, fault in wrong.items())
        raise ConfigError(f"{said}: {advice(wrong)} (Python: {sys.executable})")


def refuse_without(library: str, purpose: str, otherwise: str = "") -> None:
    """Refuse where a library of one of the extras is missing or too old.

    Args:
        library: as an index has it.
        purpose: what needs it, as ``train.optim=adamw_8bit``; the message begins with it.
        otherwise: what else can be done.

    Raises:
        ConfigError: with the command that installs the extra.
    """
    if (message := lacking(library, purpose)) is not None:
        raise ConfigError(f"{message}{f', or {otherwise}' if otherwise else ''}")


def lacking(library: str, purpose: str) -> str | None:
    """What :func:`refuse_without` says, without what else can be done; None where the library is there."""
    required = of_extras().get(library) or Requirement(name=library)
    fault = required.fault()
    if fault is None:
        return None
    said = f"which {fault}" if fault.startswith("is") else f"and {fault}"
    return f"{purpose} needs {required.name}, {said}: {advice([required])}"


def refuse_cpu_torch(remedy: str) -> None:
    """Refuse a torch that was built for the CPU alone on a machine with an NVIDIA GPU.

    Args:
        remedy: how this command is told to use the CPU.

    Raises:
        ConfigError: with the command that installs the other build.
    """
    if (build := cpu_build_beside_gpu()) is not None:
        raise ConfigError(f"{build.cpu_words}, or {remedy} to use the CPU")


def cpu_build_beside_gpu() -> TorchBuild | None:
    """A torch that was built for the CPU alone, where there is an NVIDIA GPU; else None."""
    build = torch_build() if has_nvidia_gpu() else None
    return build if build is not None and build.is_for_cpu else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """What torch was built for.

    Attributes:
        version: with the build, as ``2.13.0+cpu``.
        is_for_cpu: for neither CUDA nor ROCm.
    """

    version: str
    is_for_cpu: bool

    @property
    def cpu_words(self) -> str:
        """What is wrong with it on a machine with an NVIDIA GPU, and how it is put right."""
        plain = self.version.partition("+")[0]
        return (
            f"this machine has an NVIDIA GPU, and torch {self.version} was built for the CPU alone: "
            f"pip install --force-reinstall 'torch=={plain}' (on Linux that is the build for CUDA, unless the index is "
            "one of CPU builds)"
        )


def torch_build() -> TorchBuild | None:
    """The build of the installed torch, read in its ``version.py``; None where there is no such file."""
    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    values = dict(re.findall(r"^(\w+)\s*(?::[^=]+)?=\s*['\"]?([^'\"\n]*)", text, re.MULTILINE))
    if not {"__version__", "cuda"} <= values.keys():
        return None
    is_for_cpu = all(values.get(name, "None").strip() == "None" for name in ("cuda", "hip", "xpu"))
    return TorchBuild(version=values["__version__"].strip(), is_for_cpu=is_for_cpu)


def has_nvidia_gpu() -> bool:
    """Whether the driver's files name an NVIDIA GPU, and ``CUDA_VISIBLE_DEVICES`` does not hide all of them.

    ``nvidia-smi`` on the ``PATH`` says nothing: many images have it, on machines without a GPU too.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-1")):
        return False
    named = ("proc/driver/nvidia/gpus/*", "dev/nvidia[0-9]*", "usr/lib/wsl/lib/libcuda.so*")
    return any(next(_ROOT.glob(pattern), None) is not None for pattern in named)


def advice(required: Iterable[Requirement]) -> str:
    """The command that installs these: extras by the name of the extra, the rest by name and floor."""
    wanted = [f"mmpref[{one.extra}]" if one.extra else one.written for one in required]
    return f"pip install {' '.join(dict.fromkeys(repr(name) for name in wanted))}"


def core() -> list[Requirement]:
    """What every installation of mmpref has."""
    return [required for required in _requirements() if not required.extra]


def of_extras() -> Mapping[str, Requirement]:
    """What extras bring, by library; each from the extra that is named for its purpose (none is of ``test`` alone)."""
    found: dict[str, Requirement] = {}
    for required in _requirements():
        if required.extra and required.name != "mmpref":
            found.setdefault(required.name, required)
    return found


@functools.cache
def _requirements() -> tuple[Requirement, ...]:
    """From ``pyproject.toml`` beside the package in a source tree, whose metadata may be older; else from the metadata
    that pip wrote beside it. Without either nothing is known, and nothing is refused."""
    beside = Path(__file__).resolve().parents[1]
    project = beside / "pyproject.toml"
    if project.is_file():
        import tomllib

        table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if table.get("name") == "mmpref":
            lines = [(line, "") for line in table["dependencies"]]
            lines += [(line, extra) for extra, all_of in table["optional-dependencies"].items() for line in all_of]
            return tuple(_parsed(line, extra) for line, extra in lines)
    found: list[Requirement] = []
    for metadata in sorted(beside.glob("mmpref-*.dist-info/METADATA"))[:1]:
        head = metadata.read_text(encoding="utf-8").split("\n\n", 1)[0]
        for line in re.findall(r"^Requires-Dist: (.+)$", head, re.MULTILINE):
            extra = _EXTRA.search(line)
            found.append(_parsed(line, extra[1] if extra else ""))
    return tuple(found)


def _parsed(line: str, extra: str) -> Requirement:
    parts = _REQUIREMENT.match(line)
    assert parts is not None, line
    return Requirement(name=_normal(parts[1]), floor=parts[2] or "", extra=extra)


@functools.cache
def _quick_versions() -> Mapping[str, str]:
    """Library -> version, from the names of the folders that pip writes; the first on ``sys.path`` counts."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(sys.path):
        try:
            names = os.listdir(place or ".")  # noqa: PTH208 - a third of the time of pathlib's, over 500 names
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                library, _, version = name.rpartition(".")[0].partition("-")
                found.setdefault(_normal(library), version.partition("-")[0])
    return found


def _can_be_imported(module: str) -> bool:
    """Whether there is such a module; a mere folder of its name, as ``wandb/`` of its runs, is none."""
    try:
        spec = find_spec(module)
    except ValueError:  # it was imported without one
        return True
    return spec is not None and spec.origin is not None


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _older(version: str, floor: str) -> bool:
    """Whether a version's release numbers are below those of the floor; where a version has none, it is not."""
    given, least = _release(version), _release(floor)
    size = max(len(given), len(least))
    return bool(given) and given + (0,) * (size - len(given)) < least + (0,) * (size - len(least))


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, numbers[1].split("."))) if numbers else ()
