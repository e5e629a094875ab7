"""Text as values: YAML 1.2 scalars, ``key=value`` options, sizes; and the nearest known name to a mistyped one.

``5e-7`` is a number here, and ``yes``, ``no``, ``on``, ``None`` are plain text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import yaml

from mmpref.errors import ConfigError, library_errors, one_line
from mmpref.files.reading import why_no_path

_MOST_VALUES = 100_000
"""Of one text; a file of a few lines can hold aliases of aliases that stand for billions."""
_MOST_LETTERS = 4 * 2**20
"""Of all texts in it, written out."""
MOST_BYTES = 256 * 2**10
"""Of one text; the longest shipped recipe has a fiftieth of it, and a text of this size is read in seconds."""
_LARGEST = 2**63 - 1
_KINDS = ("str", "null", "bool", "int", "float", "seq", "map")


class _Loader(yaml.SafeLoader):
    """Safe YAML with YAML 1.2 scalars; refused are duplicate keys, merge keys, and tags that make other types."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Every value, with its line where its text does not fit its tag."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as err:
            raise _fault(
                node, f"the value does not fit its tag {node.tag.rpartition(':')[2][:40]} ({one_line(err)})"
            ) from err


class _Refused(yaml.constructor.ConstructorError):
    """Text that is YAML and that we do not take."""


def _fault(node: yaml.Node, problem: str) -> _Refused:
    return _Refused(problem=f"line {node.start_mark.line + 1}: {problem}")


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _fault(node, "the tag map needs keys and values")
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _fault(key_node, "a list or a mapping cannot be a key; write a name before the colon")
        if key_node.value == "<<" and key_node.style is None:
            raise _fault(key_node, "keys are not merged (<<); write them out")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            told = f"key '{key_node.value[:60]}' is given twice (lines {seen[key]} and {line}); keep one of them"
            raise _Refused(problem=told)
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 30 or abs(int(text)) > _LARGEST:  # YAML 1.1 would read 012 as an octal number
        raise _fault(node, f"{text[:30]}{'...' if len(text) > 30 else ''} is larger than any whole number that is used")
    return int(text)


def _other_tag(loader: _Loader, node: yaml.Node) -> Any:
    tag = node.tag.removeprefix("tag:yaml.org,2002:")[:40]
    raise _fault(node, f"the tag !{tag} is not read; write text, a number, true, false, null, a list or a mapping")


_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"] for kind in _KINDS
}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)
_Loader.add_constructor(None, _other_tag)


def parse_yaml(text: str, *, where: str) -> Any:
    """Read YAML text with this module's rules; ``where`` names it in the error.

    Raises:
        ConfigError: text that is no YAML, with the line; longer than 256 KiB; nested too deeply; aliases for a
            hundred thousand values or a hundred times the text.
    """
    return _read(text, where)[0]


def _read(text: str, where: str) -> tuple[Any, yaml.Node | None]:
    """The value of a text and the node it was made of."""
    refuse_long(len(text), where)
    try:
        with library_errors(ConfigError, f"{where} is not valid YAML", "put what is not plain text between quotes"):
            loader = _Loader(text)
            node = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
    except ConfigError as err:
        cause = err.__cause__
        if isinstance(cause, RecursionError):
            raise ConfigError(f"{where} is nested too deeply to be read") from None
        if isinstance(cause, _Refused):
            raise ConfigError(f"{where}: {cause.problem}") from None
        if isinstance(cause, yaml.YAMLError):
            raise ConfigError(f"{where} is not valid YAML: {_problem(cause, text)}") from None
        raise
    if _written_out(value, {}) > _MOST_VALUES:
        raise ConfigError(f"{where}: its aliases (*name) stand for more than {_MOST_VALUES:,} values; write them out")
    if _letters(value, {}) > _MOST_LETTERS:
        raise ConfigError(f"{where}: its aliases (*name) stand for more than {_MOST_LETTERS:,} letters; write them out")
    return value, node


def refuse_long(size: int, where: str) -> None:
    """Refuse a text that no one wrote by hand, before time goes into it.

    Raises:
        ConfigError: with both sizes.
    """
    if size > MOST_BYTES:
        raise ConfigError(f"{where} has {size:,} bytes; YAML is read up to {MOST_BYTES:,}: is this the right file?")


def _problem(err: yaml.YAMLError, text: str) -> str:
    """What YAML's reader says, after the line it means."""
    if isinstance(err, yaml.reader.ReaderError):  # it has the character's place and no mark
        line, problem = text.count("\n", 0, err.position) + 1, f"the character #x{err.character:04x} is not allowed"
        return f"line {line}: {problem}"
    mark = getattr(err, "problem_mark", None) or getattr(err, "context_mark", None)
    words = ", ".join(part for part in (getattr(err, "context", None), getattr(err, "problem", None)) if part)
    words = one_line(ValueError(words or str(err)))
    if "another document" in words:
        words = "two documents (a second line ---); keep one"
    return words if mark is None else f"line {mark.line + 1}: {words}"


def _written_out(value: Any, known: dict[int, int]) -> int:
    """How many values there are when every alias is written out; each list and mapping is looked at once."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = _MOST_VALUES + 1  # for an alias that stands inside of what it names
        known[id(value)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(value)]


def _letters(value: Any, known: dict[int, int]) -> int:
    """How many letters all texts have when every alias is written out."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, (dict, list)):
        return 0
    if id(value) not in known:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = _MOST_LETTERS + 1
        known[id(value)] = sum(_letters(part, known) for part in inner)
    return known[id(value)]


def parse_value(text: str, *, where: str) -> Any:
    """The value of a ``key=value`` text, by the same rules, and refused where there is none, or YAML would change it.

    Raises:
        ConfigError: broken YAML, nothing, a line break in a text (YAML makes a space of it), an alias, or a comment.
    """
    if not text.strip():
        raise ConfigError(f"{where} has nothing after the =; write null for no value")
    value, node = _read(text, where)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
        raise ConfigError(f"{where} holds an alias (*name), which is for files only; write the value out")
    left_over = text.strip()
    if node is not None:
        scalars = [part for part in _scalars(node) if part.style not in ("|", ">")]
        if any(part.start_mark.line != part.end_mark.line for part in scalars):
            raise ConfigError(
                f"{where} has a line break in a text, of which YAML makes a space; take it out, or write \\n between "
                "double quotes"
            )
        left_over = text[node.end_mark.index :].strip()
    if left_over:
        raise ConfigError(
            f"{where}: YAML takes '{left_over}' for a comment and leaves it out; put the whole value between quotes"
        )
    return value


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from (part for child in pair for part in _scalars(child))
    elif isinstance(node, yaml.SequenceNode):
        yield from (part for child in node.value for part in _scalars(child))


def parse_size(text: str) -> tuple[int, int]:
    """``640x480`` as (width, height)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"'{text}' is not the size of an image or frame; write 640x480")
    return int(width), int(height)


def parse_options(options: Sequence[str], *, texts: Collection[str] = ()) -> dict[str, Any]:
    """``key=value`` texts as a mapping, values read by this module's YAML rules.

    Args:
        texts: keys whose value is text as it stands, so that ``image_name={id}.jpg`` is no mapping; a value in quotes
            is read as YAML reads it.
    """
    given: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"'{short(option)}' must be written key=value")
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        as_it_stands = key in texts and not quoted
        given[key] = value = text if as_it_stands else parse_value(text, where=f"option '{short(option)}'")
        if isinstance(value, str) and (why := why_no_path(value)):  # most of them name files
            raise ConfigError(f"option {key} {why}")
    return given


def short(text: str, most: int = 120) -> str:
    """A text as a message shows it: its beginning where it is long, and what would end the line as escapes."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:most])
    return shown if len(text) <= most else f"{shown}..."


def did_you_mean(name: str, known: Sequence[str], *, prefix: Sequence[Any] = ()) -> str:
    """A question with the nearest known name; empty when none is near."""
    near = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    return f", did you mean '{'.'.join([*map(str, prefix), near[0]])}'?" if near else ""
