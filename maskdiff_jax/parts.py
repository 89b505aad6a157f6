"""Parts by name: from a section of a config to what its factory makes, every error in one line that names the key."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A config that cannot be built, in one line: what is wrong, where, and the choices."""


def part(path: str, table: Mapping[str, Callable[..., Any]], section: ConfigDict, *args: Any) -> Any:
    """``table[section.name](*args, **other keys)``. Raises ConfigError with the path, and the choices for a name."""
    options = section.to_dict()
    name = options.pop("name")
    factory = find(path, table, name)
    taken = [p for p in inspect.signature(factory).parameters.values()][len(args) :]
    if not any(p.kind is p.VAR_KEYWORD for p in taken):
        known = [p.name for p in taken]
        for key in options:
            if key not in known:
                choices = f"; its options: {', '.join(known)}" if known else "; it takes none"
                raise ConfigError(f"config.{path}.{key}: {name!r} has no such option{closest(key, known)}{choices}")
        for p in taken:
            if p.default is p.empty and p.name not in options:
                raise ConfigError(f"config.{path}: {name!r} needs the option {p.name!r}")
    return checked(path, factory, *args, **options)


def find(path: str, table: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    factory = _imported(path, name) if ":" in str(name) else table.get(name)
    if factory is None:
        choices = f"choose from {', '.join(table)}, or name your own as 'package.module:function'"
        raise ConfigError(f"config.{path}.name: unknown {name!r}{closest(name, table)}; {choices}")
    return factory


def _imported(path: str, name: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names, for a part that is not of this project."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"config.{path}.name: cannot import {name!r}: {error}") from error


def checked(path: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """``function(*args, **options)``, with ValueError and TypeError turned into a ConfigError that names the path."""
    try:
        return function(*args, **options)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"config.{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def whole(path: str, table: Mapping[str, Callable[..., Any]], section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with the defaults of its factory in the place of options that it does not have."""
    known = inspect.signature(find(path, table, section["name"])).parameters.values()
    return {p.name: p.default for p in known if p.default is not p.empty} | dict(section)


def check_keys(config: ConfigDict, known: ConfigDict, path: str = "config") -> None:
    """Raise ConfigError for a section or key that `default_config` does not have, or lacks. Parts check their own."""
    for key in config:
        if key not in known:
            raise ConfigError(f"{path}.{key}: no such key{closest(key, known)}; there are {', '.join(known)}")
    for key, default in known.items():
        if key not in config:
            raise ConfigError(f"{path}.{key} is missing")
        value = config[key]
        if not isinstance(default, ConfigDict):
            continue
        if not isinstance(value, ConfigDict):
            raise ConfigError(f"{path}.{key} is a section of keys, not {value!r}")
        if "name" not in default:
            check_keys(value, default, f"{path}.{key}")
        elif "name" not in value:
            raise ConfigError(f"{path}.{key} needs a name")


def complete(config: ConfigDict, known: ConfigDict) -> ConfigDict:
    """A copy of a stored config with today's default for keys that there were not when it was stored.

    A new key's default is what was done before there was the key.
    """
    whole = config.copy_and_resolve_references()
    with whole.unlocked():
        for key, default in known.items():
            if key not in whole:
                whole[key] = default
            elif isinstance(default, ConfigDict) and "name" not in default and isinstance(whole[key], ConfigDict):
                whole[key] = complete(whole[key], default)
    return whole


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping | ConfigDict) else {f"{prefix}{key}": value}
        )
    return flat


def closest(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
