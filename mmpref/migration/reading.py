"""A config file or a command line of another tool, read as keys and values. Nothing of it is run.

A file is YAML, JSON, or a shell script: one command, with the variables that are set to plain texts before it. Of what
starts several processes (``accelerate launch``, ``torchrun``, variables of the environment) each option is a key of its
own, ``launch num_processes`` and ``env MAX_PIXELS``, so that it is accounted for like all others.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmpref.errors import ConfigError
from mmpref.files.reading import parse_json, read_text
from mmpref.yaml_text import MOST_BYTES, parse_yaml, short

_MOST_KEYS: Final = 1000
_SWITCHES: Final = ("-", "--")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a file says.

    Attributes:
        values: key -> value; of a shell script texts, lists of texts, or true for an option without a value.
        tool: the tool that the command names; None where only the keys can tell.
    """

    values: Mapping[str, Any]
    tool: str | None = None


def read_settings(path: Path) -> Settings:
    """The settings of a file.

    Raises:
        ConfigError: no file, one that cannot be read, longer than 256 KiB, no mapping, or no command that is known.
    """
    text = read_text(path, ConfigError, most=MOST_BYTES)
    where = str(path)
    if not text.strip():
        raise ConfigError(f"{where} is empty")
    if path.suffix.lower() == ".py":
        raise ConfigError(f"{where} is a program, which is not run; write its DPOConfig's arguments into a YAML file")
    if "\0" in text:
        raise ConfigError(f"{where} is no text; give a YAML or JSON file, or a shell script")
    if path.suffix.lower() in (".sh", ".bash", ".slurm", ".sbatch", ".txt") or text.startswith("#!"):
        return _of_shell(text, where)
    if path.suffix.lower() in (".json", ".jsonc") or text.lstrip().startswith("{"):
        value = parse_json(text, ConfigError, where)
    else:
        value = parse_yaml(text, where=where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping of keys, got {type(value).__name__}")
    if len(value) > _MOST_KEYS:
        raise ConfigError(f"{where} has {len(value):,} keys; is this the right file?")
    return Settings(values={str(key): part for key, part in value.items()})


_COMMANDS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("trl", "dpo"), "trl"),
    (("swift", "rlhf"), "ms_swift"),
    (("megatron", "rlhf"), ""),
    (("llamafactory-cli", "train"), "llama_factory"),
    (("lmf", "train"), "llama_factory"),
)
_LAUNCHERS: Final = ("accelerate", "torchrun", "deepspeed", "python", "python3", "uv", "srun", "exec", "nohup")


def _of_shell(text: str, where: str) -> Settings:
    """The first command of a script that trains."""
    lines = re.sub(r"\\[ \t]*\n", " ", text).split("\n")
    variables: dict[str, str] = {}
    for line in lines:
        words = _words(line, where)
        if words and words[0] == "export":
            words = words[1:]
        assigned = _assignments(words)
        if len(assigned) == len(words):
            variables |= {name: _with_variables(value, variables) for name, value in assigned.items()}
            continue
        words = [_with_variables(word, variables) for word in words]
        if (found := _command(words, variables, where)) is not None:
            return found
    known = ", ".join(f"`{' '.join(command)}`" for command, tool in _COMMANDS if tool)
    raise ConfigError(f"{where} has no command that trains on preferences; known: {known}, or a script with options")


def _words(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as err:
        raise ConfigError(f"{where}: {short(line.strip())}: {str(err).lower()}") from None


def _assignments(words: Sequence[str]) -> dict[str, str]:
    """The variables that are set at the beginning of a line."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            break
        found[name] = value
    return found


def _with_variables(text: str, variables: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` as what they were set to; others stay as they are."""
    return re.sub(
        r"\$(?:\{(\w+)\}|(\w+))", lambda found: variables.get(found[1] or found[2], found[0]), text
    )  # fmt: skip


def _command(words: list[str], variables: Mapping[str, str], where: str) -> Settings | None:
    environment = _assignments(words)
    rest = words[len(environment) :]
    place, tool = _program(rest)
    if place is None:
        return None
    if tool == "":
        raise ConfigError(f"{where}: {' '.join(rest[:2])} trains with Megatron, whose settings are not read")
    before = rest[: place - (1 if rest[place - 1].endswith(".py") else 2)]
    values = {f"env {name}": value for name, value in {**_told(variables), **environment}.items()}
    values |= {f"launch {name}": value for name, value in _options(before, where).items()}
    arguments = rest[place:]
    for end in ("&&", "||", "|", ";", "&", ">", ">>", "2>&1", "2>"):
        if end in arguments:
            arguments = arguments[: arguments.index(end)]
    options = _options(arguments, where)
    if not options:
        named = next((word for word in arguments if word.endswith((".yaml", ".yml", ".json"))), None)
        raise ConfigError(f"{where} starts {' '.join(rest[:place])} with a file of settings; give that file"
                          + (f": mmpref config --from {named}" if named else ""))  # fmt: skip
    unset = sorted({name for text in _texts(options) for name in re.findall(r"\$\{?(\w+)", text)})
    if unset:
        raise ConfigError(f"{where}: the variable {unset[0]} is not set in the script; write its value")
    return Settings(values={**values, **options}, tool=tool)


_OF_INTEREST: Final = ("MAX_PIXELS", "MIN_PIXELS", "VIDEO_MAX_PIXELS", "FPS", "FPS_MAX_FRAMES", "NPROC_PER_NODE",
                       "NNODES", "IMAGE_MAX_TOKEN_NUM")  # fmt: skip


def _told(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that were exported on lines of their own and that a tool reads from the environment."""
    return {name: variables[name] for name in _OF_INTEREST if name in variables}


def _program(words: Sequence[str]) -> tuple[int | None, str | None]:
    """Where the options of the program begin, and whose it is; a script's own name does not tell."""
    for number in range(len(words) - 1):
        pair = (words[number].rpartition("/")[2], words[number + 1])
        for command, tool in _COMMANDS:
            if pair == command:
                return number + 2, tool
    if words and words[0].rpartition("/")[2] in _LAUNCHERS:
        for number, word in enumerate(words):
            if word.endswith(".py"):
                is_swift = "swift" in word and "rlhf" in word
                return number + 1, "ms_swift" if is_swift else "trl" if "dpo" in word.lower() else None
    return None, None


def _options(words: Sequence[str], where: str) -> dict[str, Any]:
    """``--name value ...`` as keys; several values are a list, none is true. Dashes in names are underscores."""
    found: dict[str, Any] = {}
    name = None
    for word in words:
        option = re.fullmatch(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", word, re.DOTALL)
        if option:
            name = option[1].replace("-", "_")
            if name in found:
                raise ConfigError(f"{where}: --{option[1]} is given twice; keep one of them")
            found[name] = True if option[2] is None else option[2]
        elif name is not None:
            before = found[name]
            found[name] = word if before is True else [*before, word] if isinstance(before, list) else [before, word]
    return found


def _texts(options: Mapping[str, Any]) -> list[str]:
    parts = [part for value in options.values() for part in (value if isinstance(value, list) else [value])]
    return [part for part in parts if isinstance(part, str)]
