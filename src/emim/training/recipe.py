"""Recipes: YAML and overrides read into a `RunConfig`, with errors that name the key, and written with descriptions.

Recipes are YAML 1.2 as far as plain values go: `yes`, `on` and dates are text. Files are bounded in size, depth and
repetition, keys must not be repeated, and tags are refused.
"""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from emim.errors import ConfigError
from emim.training.config import RunConfig
from emim.utils import is_file, nearest

__all__ = [
    "RENAMED_KEYS",
    "KeyDescription",
    "describe_keys",
    "find_recipe",
    "from_dict",
    "known_keys",
    "load_recipe",
    "recipe_folder",
    "to_dict",
    "to_yaml",
]

RENAMED_KEYS = {
    "optim.matching": "optim.photometric",
    "trainer.checkpoint_blocks": "trainer.activation_checkpointing",
}
"""Old names of keys, which work until version 0.3, and their new names."""

_PACKAGE = Path(__file__).resolve().parents[1]
_LARGEST_FILE = 2**20
_MOST_NODES = 10_000
_DEEPEST = 20
_LONGEST_SHOWN = 100
_LONGEST_REASON = 400


def recipe_folder() -> Path:
    """Return the folder of the recipes, inside the installed package or at the root of a checkout."""
    packaged = _PACKAGE / "recipes"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "recipes"


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe, given as a path or as the name of one that comes with the package.

    Raises:
        ConfigError: no such recipe.
    """
    if is_file(name):
        return Path(name)
    known = {file.stem: file for file in recipe_folder().glob("*.yaml")}
    if str(name) in known:
        return known[str(name)]
    hint = nearest(str(name)[:_LONGEST_SHOWN], known)
    raise ConfigError(f"no recipe file {_shortened(str(name))}, and no recipe of that name; {hint}")


def load_recipe(path: str | os.PathLike[str] | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a recipe and apply overrides.

    Args:
        path: YAML file; None for the defaults.
        overrides: `dotted.key=value`, the value in YAML.

    Raises:
        ConfigError: unreadable file, unknown key (names the nearest valid one) or wrong value.
    """
    origin = "" if path is None else f"{path}: "
    values = {} if path is None else _renamed(_read_yaml(Path(path)), origin)
    from_dict(values, origin)  # so that an error after this one is an override's fault, and not the file's
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {_shown(override)} must be key=value")
        key = _current_name(key.strip(), "")
        _check_override_key(key)
        _set(values, key, _parse(key, text))
    return from_dict(values)


def from_dict(values: Mapping[str, Any], origin: str = "") -> RunConfig:
    """Return the `RunConfig` of nested dictionaries; the inverse of `to_dict`.

    Args:
        values: values by key; those left out have their defaults.
        origin: start of error messages, such as a file's name and a colon.

    Raises:
        ConfigError: unknown key or wrong value.
    """
    values = _renamed(values, origin)
    _check_keys(values, RunConfig, "", origin)
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):  # it names the key already
            raise ConfigError(f"{origin}{_shortened(str(cause), _LONGEST_REASON)}") from error
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:]
        raise ConfigError(f"{origin}{_key_of(first['loc'])}: {reason}, got {_shown(first['input'])}") from error


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return nested dictionaries of plain values, ready for YAML or JSON."""
    plain = _adapter().dump_python(config, mode="json")
    assert isinstance(plain, dict)
    return plain


def known_keys() -> dict[str, Any]:
    """Return every dotted key with its default value."""
    return {item.key: item.default for item in _fields()}


class KeyDescription(NamedTuple):
    """A key of a recipe.

    Attributes:
        key: dotted name.
        type: type in words, such as "integer or null".
        range: valid values in words; empty if there is no limit.
        default: default as a plain value (lists instead of tuples).
        description: description in one line, from the docstring of the key's class.
    """

    key: str
    type: str
    range: str
    default: Any
    description: str


def describe_keys() -> list[KeyDescription]:
    """Describe every key of a recipe, in the order of a recipe."""
    described = []
    for item in _fields():
        kind, limits = _type_and_range(item.hint)
        default = TypeAdapter(item.hint).dump_python(item.default, mode="json")
        described.append(
            KeyDescription(item.key, kind, _CHECKED_BY_CLASS.get(item.key, limits), default, item.description)
        )
    return described


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML that `load_recipe` reads, with the description of each key as a comment."""
    lines: list[str] = []
    section = ""
    values = to_dict(config)
    for item in describe_keys():
        *parents, last = item.key.split(".")
        if parents and parents[0] != section:
            section = parents[0]
            lines += ["", f"{section}:"]
        indent = "  " * len(parents)
        value = values[parents[0]][last] if parents else values[last]
        limits = [item.type, *([item.range] if item.range else [])]
        if value != item.default:
            limits.append(f"default {_in_one_line(item.default)}")
        mark = f"{indent}# "
        lines += textwrap.wrap(_first_sentence(item.description), 110, initial_indent=mark, subsequent_indent=mark)
        lines.append(f"{indent}{last}: {_in_one_line(value)}  # {'; '.join(limits)}")
    return "\n".join(lines) + "\n"


class _Field(NamedTuple):
    key: str
    hint: Any
    default: Any
    description: str


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    return TypeAdapter(RunConfig)


@cache
def _fields() -> tuple[_Field, ...]:
    """Every key with its annotation, default and description."""

    def visit(value: Any, prefix: str) -> Iterator[_Field]:
        hints, texts = get_type_hints(type(value), include_extras=True), _attribute_texts(type(value))
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            if dataclasses.is_dataclass(inner):
                yield from visit(inner, f"{prefix}{item.name}.")
            else:
                yield _Field(f"{prefix}{item.name}", hints[item.name], inner, texts.get(item.name, ""))

    return tuple(visit(RunConfig(), ""))


def _attribute_texts(cls: type) -> dict[str, str]:
    """Descriptions of a class's attributes, from the section "Attributes:" of its docstring."""
    texts: dict[str, str] = {}
    _, _, section = (cls.__doc__ or "").partition("Attributes:\n")
    for entry in re.split(r"\n(?=        \w)", f"\n{section}"):
        names, _, text = entry.partition(":")
        line = " ".join(text.split())
        for name in names.split(","):
            texts[name.strip()] = line[:1].upper() + line[1:]
    return texts


def _first_sentence(text: str) -> str:
    found = re.match(r".+?\.(?=\s+[A-Z]|$)", text)
    return found[0] if found else text


_PLAIN_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text"}

_CHECKED_BY_CLASS = {
    **dict.fromkeys((f"preprocessing.{name}" for name in ("num_frames", "stride", "size", "clips")), "at least 1"),
    "preprocessing.train_size": "at least 1",
    "preprocessing.crops": "1, 3",
    "preprocessing.std": "above 0",
    "augment.reduce_to": "at least 1",
    "augment.crop_scale": "0 < low <= high <= 1",
    "augment.crop_ratio": "0 < low <= high",
    **dict.fromkeys((f"augment.{name}" for name in ("flip", "reverse", "grayscale", "invert", "erasing")), "0 to 1"),
    **dict.fromkeys(
        (f"augment.{name}" for name in ("brightness", "contrast", "saturation", "rotation", "noise")), "at least 0"
    ),
}
"""Ranges that a class checks itself, so that its annotations do not have them."""


def _type_and_range(hint: Any) -> tuple[str, str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, limits = _type_and_range(arguments[0])
        return kind, ", ".join(part for part in (limits, *map(_range_of, arguments[1:])) if part)
    if origin is Literal:
        return _PLAIN_TYPES[type(arguments[0])], ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        parts = [("null", "") if part is type(None) else _type_and_range(part) for part in arguments]
        return " or ".join(kind for kind, _ in parts), " or ".join(limits for _, limits in parts if limits)
    if origin is tuple:
        kind, limits = _type_and_range(arguments[0])
        return f"list of {len(arguments)} {kind}s", f"each {limits}" if limits else ""
    if origin is not None:
        return "mapping of text to text", ""
    return _PLAIN_TYPES[hint], ""


def _range_of(constraint: Any) -> str:
    if isinstance(constraint, str):
        return constraint
    if not isinstance(constraint, FieldInfo):
        return ""
    limits = {name: value for part in constraint.metadata for name, value in _limits(part)}
    low, high = limits.get("ge"), limits.get("le")
    if high == 2**31 - 1:  # the largest count that is accepted, far beyond what makes sense
        high = None
    if low is not None and high is not None:
        return f"{low:g} to {high:.10g}"
    texts = (("at least", low), ("above", limits.get("gt")), ("at most", high), ("below", limits.get("lt")))
    return ", ".join(f"{word} {value:g}" for word, value in texts if value is not None)


def _limits(constraint: Any) -> Iterator[tuple[str, Any]]:
    for name in ("ge", "gt", "le", "lt"):
        if (value := getattr(constraint, name, None)) is not None:
            yield name, value


def _in_one_line(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, width=2**31, sort_keys=False).strip()[1:-1]


def _key_of(location: Sequence[int | str]) -> str:
    """Return the dotted key of a validation error, whose location may end in the alternatives of the key's type."""
    known = known_keys()
    key = ""
    for part in location:
        if key not in known:
            key = f"{key}.{part}" if key else str(part)
        elif isinstance(part, int):
            key = f"{key}.{part}"
            break
    return key


def _current_name(key: str, origin: str) -> str:
    """Return the key itself, or the new name of a renamed one, with a warning."""
    if key not in RENAMED_KEYS:
        return key
    new = RENAMED_KEYS[key]
    warnings.warn(f"{origin}{key} is now {new}; the old name works until version 0.3", FutureWarning, stacklevel=4)
    return new


def _renamed(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Copy the values under the present names of their keys."""
    copy = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for old in RENAMED_KEYS:
        section, name = old.split(".")
        inner = copy.get(section)
        if isinstance(inner, dict) and name in inner:
            new = _current_name(old, origin)
            if new.split(".")[1] in inner:
                raise ConfigError(f"{origin}{old} is the old name of {new}, which is set, too; remove {old}")
            inner[new.split(".")[1]] = inner.pop(name)
    return copy


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


class _Loader(yaml.SafeLoader):
    """A loader of bounded YAML without tags, dates, repeated keys, and values of YAML 1.1 that look like text."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0
        self._done: dict[int, tuple[yaml.Node, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        node: yaml.Node | None
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._done:
                raise _refusal("an anchor that contains itself", event)
            self._count(self._done[id(node)][1], event)
            return node
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refusal("tags are not supported", event)
        if self._depth >= _DEEPEST:
            raise _refusal(f"nested more than {_DEEPEST} deep", event)
        before = self._nodes
        self._count(1, event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._done[id(node)] = node, self._nodes - before
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _refusal(f"key {_shown(key.value)} is given twice", key)
            seen.add(str(key.value))
        return node

    def _count(self, nodes: int, event: yaml.Event) -> None:
        self._nodes += nodes
        if self._nodes > _MOST_NODES:
            raise _refusal(f"more than {_MOST_NODES} values", event)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        base = {"0x": 16, "0b": 2}.get(text.lstrip("+-")[:2], 10)
        value = int(text, base) if len(text) < _LONGEST_SHOWN else None
        if value is None or abs(value) >= 2**63:
            raise _refusal("a number beyond 64 bits", node)
        return value


_INTEGER, _BOOLEAN, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("int", "bool", "float"))
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    (_BOOLEAN, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INTEGER, r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]*[0-9a-fA-F]|[0-9][0-9_]*)", "-+0123456789"),
    (_FLOAT, r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+0123456789."),
):  # fmt: skip
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(_INTEGER, _Loader.construct_integer)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {_LARGEST_FILE // 2**20} MiB, so it is not a recipe")
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = _shortened(" ".join(str(error).split()), _LONGEST_REASON)
        raise ConfigError(f"{path}: not valid YAML ({reason})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys, got a {type(values).__name__}")
    return values


def _parse(key: str, text: str) -> Any:
    if _takes_text(key) and text not in ("null", "~", ""):
        return text  # a folder may be called 2024
    if len(text) > _LARGEST_FILE:
        raise ConfigError(f"{key}: a value of {len(text)} characters is too long")
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{key}: {_shown(text)} is not a value ({error.problem})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{key}: {_shown(text)} is not a value") from error
    if isinstance(value, str):  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _takes_text(key: str) -> bool:
    section: Any = RunConfig
    for part in key.split("."):
        section = get_type_hints(section).get(part) if dataclasses.is_dataclass(section) else None
    return section in (str, str | None)


def _check_override_key(dotted: str) -> None:
    """Raise ConfigError unless the key exists; a part of a key, such as augment.flip_map.left, is one, too."""
    section: Any = RunConfig
    parts = dotted.split(".")
    for part in parts:
        if not dataclasses.is_dataclass(section):
            break
        section = get_type_hints(section).get(part)
        if section is None:
            raise ConfigError(f"unknown key {_shown(dotted)}; {_nearest_key(dotted)}")
    if len(parts) > _DEEPEST:
        raise ConfigError(f"unknown key {_shown(dotted)}: nested more than {_DEEPEST} deep")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"unknown key {_shown(key)}; {_nearest_key(key)}")
        values = inner
    values[last] = value


def _check_keys(values: Mapping[str, Any], section: type, prefix: str, origin: str) -> None:
    hints = get_type_hints(section)
    for key, value in values.items():
        dotted = f"{prefix}{_shortened(str(key))}"
        if key not in hints:
            hint = _nearest_section(dotted) if isinstance(value, Mapping) and not prefix else _nearest_key(dotted)
            raise ConfigError(f"{origin}unknown key {_shown(dotted)}; {hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}{dotted} is a section of keys, got {_shown(value)}")
            _check_keys(value, hints[key], f"{dotted}.", origin)


_ALL_KEYS = "`emim config` prints all keys"


def _nearest_key(dotted: str) -> str:
    """Return a clause that names the key with the most similar last part; the section decides between equal ones."""
    section, _, last = dotted[:_LONGEST_SHOWN].rpartition(".")

    def similarity(key: str) -> tuple[float, float]:
        own_section, _, own_last = key.rpartition(".")
        return SequenceMatcher(None, last, own_last).ratio(), SequenceMatcher(None, section, own_section).ratio()

    known = known_keys()
    best = max(known, key=lambda key: sum(similarity(key)))
    if similarity(best)[0] < 0.6:
        best = max(known, key=similarity)
    if similarity(best)[0] >= 0.6:
        return f"did you mean {best!r}?"
    inner = [key.rpartition(".")[2] for key in known if section and key.rpartition(".")[0] == section]
    return f"{section} has {', '.join(inner)}" if inner else _ALL_KEYS


def _nearest_section(name: str) -> str:
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    close = get_close_matches(name, sorted(sections), n=1)
    return f"did you mean {close[0]!r}?" if close else f"sections are {', '.join(sorted(sections))}; {_ALL_KEYS}"


def _shown(value: Any) -> str:
    """Return the value for an error message, shortened."""
    try:
        return _shortened(repr(value))
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"


def _shortened(text: str, longest: int = _LONGEST_SHOWN) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
