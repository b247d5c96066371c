"""The configuration of a run beside the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from emim.training.config import RunConfig
from emim.training.recipe import to_dict


@dataclass(frozen=True)
class Setting:
    """A key with its value and default, as YAML writes them."""

    key: str
    value: str
    default: str


def changed_settings(config: RunConfig) -> tuple[Setting, ...]:
    """The keys whose value is not the default, in the order of the configuration."""
    values, defaults = (dict(_flat(to_dict(each))) for each in (config, RunConfig()))
    return tuple(
        Setting(key, _text(value), _text(defaults.get(key)))
        for key, value in values.items()
        if value != defaults.get(key)
    )


def whole(config: RunConfig) -> str:
    """The configuration as a recipe."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys, as overrides name them. A mapping that is a value (`augment.flip_map`) stays one."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and not key.endswith("_map"):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def _text(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
