"""What the command line puts in place of a config's own values, by path: "visibility.name", "stages[0].steps"."""

import ast
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

from ml_collections import ConfigDict


def own_overrides(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without those that ml_collections cannot take, and these as path -> value.

    They are --config.stages[0].key=value, for it knows no paths into dicts in a tuple; and --config.key=None, which it
    would read as the type of the key. Raises ValueError for a path into a stage without a value.
    """
    left, found = [], {}
    for argument in argv:
        path, equals, value = argument.lstrip("-").partition("=")
        in_stage = path.startswith("config.stages[")
        if in_stage and not equals:
            raise ValueError(f"{argument}: give the value with =, as --config.stages[0].steps=500")
        if in_stage or (path.startswith("config.") and value == "None"):
            found[path.removeprefix("config.")] = _literal(value)
        else:
            left.append(argument)
    return left, found


def put(config: ConfigDict, path: str, value: Any) -> None:
    """Put ``value`` at a path, making sections that are missing. Raises ValueError for a stage that is not there."""
    *sections, key = _keys(path)
    place: Any = config
    for name in sections:
        if isinstance(name, int):
            count = len(place) if isinstance(place, tuple | list) else 0
            if name >= count:
                raise ValueError(f"config.{path}: there is no stage {name}, stages are counted from 0 and are {count}")
        elif not isinstance(place.get(name), ConfigDict | dict | tuple | list):
            place[name] = ConfigDict() if isinstance(place, ConfigDict) else {}
        place = cast(Any, place)[name]
    with place.ignore_type() if isinstance(place, ConfigDict) else nullcontext():
        place[key] = value


def drop_stale_options(config: ConfigDict, original: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Where an override names another member for a part, remove the options that were meant for the old one."""
    for path in overrides:
        section_path, _, key = path.rpartition(".")
        if key != "name" or not section_path:
            continue
        section, before = _section(config, section_path), _section(original, section_path)
        if before is None or section is None or before.get("name") == section["name"]:
            continue
        for option in list(section):
            if option != "name" and f"{section_path}.{option}" not in overrides:
                del section[option]


def _section(config: Any, path: str) -> Any:
    """The section at a path, or None."""
    for key in _keys(path):
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return None
    return config if isinstance(config, ConfigDict | dict) else None


def _keys(path: str) -> list[str | int]:
    """ "stages[0].visibility" -> ["stages", 0, "visibility"]."""
    return [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
