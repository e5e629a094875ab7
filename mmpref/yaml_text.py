"""Text as values: YAML 1.2 scalars, ``key=value`` options, sizes; and the nearest known name to a mistyped one.

``5e-7`` is a number here, and ``yes``, ``no``, ``on``, ``None`` are plain text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import yaml

from mmpref.errors import ConfigError

_MOST_VALUES = 100_000
"""Of one text; a file of a few lines can hold aliases of aliases that stand for billions."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with YAML 1.2 scalars, and with duplicate keys refused."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {line}: a list or a mapping cannot be a key; write a name before the colon")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ConfigError(f"key '{key}' is given twice (lines {seen[key]} and {line}); keep one of them")
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # YAML 1.1 would read 012 as an octal number


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def parse_yaml(text: str, *, where: str) -> Any:
    """Read YAML text with this module's rules; ``where`` names it in the error."""
    try:
        value = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.YAMLError as err:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(err).split())}") from err
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply to be read") from None
    except (ValueError, TypeError, LookupError, AttributeError) as err:  # a tag or a number that its text does not fit
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(err).split())}") from None
    if _written_out(value, {}) > _MOST_VALUES:
        raise ConfigError(f"{where}: its aliases (*name) stand for more than {_MOST_VALUES:,} values; write them out")
    return value


def _written_out(value: Any, known: dict[int, int]) -> int:
    """How many values there are when every alias is written out; each list and mapping is looked at once."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(value)]


def parse_value(text: str, *, where: str) -> Any:
    """The value of a ``key=value`` text, by the same rules, and refused where there is none, or YAML would change it.

    Raises:
        ConfigError: broken YAML, nothing, a line break in a text (YAML makes a space of it), an alias, or a comment.
    """
    if not text.strip():
        raise ConfigError(f"{where} has nothing after the =; write null for no value")
    value = parse_yaml(text, where=where)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
        raise ConfigError(f"{where} holds an alias (*name), which is for files only; write the value out")
    node = yaml.compose(text, Loader=_Loader)
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
        raise ConfigError(f"'{text}' is not the size of a picture; write 640x480")
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
            raise ConfigError(f"'{option}' must be written key=value")
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        as_it_stands = key in texts and not quoted
        given[key] = text if as_it_stands else parse_value(text, where=f"option '{option}'")
    return given


def did_you_mean(name: str, known: Sequence[str], *, prefix: Sequence[Any] = ()) -> str:
    """A question with the nearest known name; empty when none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean '{'.'.join([*map(str, prefix), near[0]])}'?" if near else ""
