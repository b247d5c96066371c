"""Read a recipe and its overrides into a `RunConfig`, with errors that name the key."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from emim.errors import ConfigError
from emim.training.config import RunConfig
from emim.utils import nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path:
    """Where the recipes are: inside the installed package, or at the root of a checkout."""
    packaged = _PACKAGE / "recipes"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "recipes"


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe, given as a path or as the name of one that comes with the package.

    Raises:
        ConfigError: no such recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in recipe_folder().glob("*.yaml")}
    if str(name) in known:
        return known[str(name)]
    raise ConfigError(f"no recipe file {name}, and no recipe of that name; {nearest(str(name), known)}")


def load_recipe(path: str | os.PathLike[str] | None, overrides: Iterable[str] = ()) -> RunConfig:
    """A recipe with overrides applied.

    Args:
        path: YAML file; None for the defaults.
        overrides: `dotted.key=value`, the value in YAML.

    Raises:
        ConfigError: unreadable file, unknown key (names the nearest valid one) or wrong value.
    """
    values = {} if path is None else _read_yaml(Path(path))
    origin = "" if path is None else f"{path}: "
    from_dict(values, origin)  # so that what is wrong from here on is an override's fault, and not the file's
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} must be key=value")
        _set(values, key.strip(), _parse(key, text))
    return from_dict(values)


def from_dict(values: Mapping[str, Any], origin: str = "") -> RunConfig:
    """A `RunConfig` from nested dictionaries; the inverse of `to_dict`.

    Raises:
        ConfigError: unknown key or wrong value.
    """
    _check_keys(values, RunConfig, "", origin)
    try:
        return TypeAdapter(RunConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):  # says all there is to say
            raise ConfigError(f"{origin}{cause}") from error
        key = _key_of(first["loc"])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"{origin}{key}: {reason}, got {first['input']!r}") from error


def _key_of(location: Sequence[int | str]) -> str:
    """The dotted key of a validation error, whose location may end in the alternatives of the key's type."""
    known = known_keys()
    key = ""
    for part in location:
        if key not in known:
            key = f"{key}.{part}" if key else str(part)
        elif isinstance(part, int):
            key = f"{key}.{part}"
            break
    return key


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested dictionaries of plain values, ready for YAML or JSON."""
    plain = TypeAdapter(RunConfig).dump_python(config, mode="json")
    assert isinstance(plain, dict)
    return plain


def known_keys() -> dict[str, Any]:
    """Every dotted key with its default value."""
    keys: dict[str, Any] = {}

    def visit(value: Any, prefix: str) -> None:
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            if dataclasses.is_dataclass(inner):
                visit(inner, f"{prefix}{item.name}.")
            else:
                keys[prefix + item.name] = inner

    visit(RunConfig(), "")
    return keys


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys, got a {type(values).__name__}")
    return values


def _parse(key: str, text: str) -> Any:
    if _takes_text(key) and text not in ("null", "~", ""):
        return text  # a folder called 2024 is no number
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {text!r} is not a value") from error
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a string
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


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"unknown key {key!r}; {_nearest_key(key)}")
        values = inner
    values[last] = value


def _check_keys(values: Mapping[str, Any], section: type, prefix: str, origin: str) -> None:
    types = get_type_hints(section)
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in types:
            raise ConfigError(f"{origin}unknown key {dotted!r}; {_nearest_key(dotted)}")
        if dataclasses.is_dataclass(types[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}{dotted} is a section of keys, got {value!r}")
            _check_keys(value, types[key], f"{dotted}.", origin)


def _nearest_key(dotted: str) -> str:
    known = known_keys()
    last = dotted.rsplit(".", 1)[-1]
    same_last = [key for key in known if key.rsplit(".", 1)[-1] == last]
    if same_last:
        return f"did you mean {same_last[0]!r}?"
    close = get_close_matches(dotted, known, n=1, cutoff=0.5)
    if not close:
        by_last = {key.rsplit(".", 1)[-1]: key for key in known}
        close = [by_last[name] for name in get_close_matches(last, by_last, n=1, cutoff=0.4)]
    if close:
        return f"did you mean {close[0]!r}?"
    return "see `emim train --help` for all keys"
