"""TOML in, `AgentConfig` or one clear ConfigError out.

Every error names the file, the key path, what was found, what is expected and what to do, with a suggestion for a
misspelt key. Relative paths count from the folder of the TOML file; secrets are looked for in CREDENTIALS_DIRECTORY
first, where systemd's LoadCredential puts them.
"""

from __future__ import annotations

import difflib
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from bundle.errors import ConfigError
from edge_agent.config import AgentConfig
from edge_agent.masking import shown_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

_MAX_CONFIG_BYTES = 1 << 20
_SECRETS = frozenset({"password_file", "key_file", "cert_file", "ca_file", "credentials_file"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved key.

    Attributes:
        key: Path in the file, for example "cameras[0].visit.frames".
        value: The value in force, as JSON would write it.
        origin: "file" or "default".
    """

    key: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and where it came from.

    Attributes:
        file: The TOML file.
        config: The frozen tree.
        settings: Every key with its value and origin, in file order.
    """

    file: Path
    config: AgentConfig
    settings: tuple[Setting, ...]


def load_config(file: Path, environment: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Read and check a configuration.

    Args:
        file: The TOML file.
        environment: Where CREDENTIALS_DIRECTORY is looked up.

    Returns:
        The configuration, its paths absolute.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or a key is wrong, missing or unknown.
    """
    raw = _read(file)
    try:
        parsed = AgentConfig.model_validate(raw)
    except ValidationError as exc:
        raise _config_error(file, exc) from exc
    config = AgentConfig.model_validate(_with_absolute_paths(parsed.model_dump(), file.resolve().parent, environment))
    return LoadedConfig(file, config, tuple(_settings(config, raw)))


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            data = handle.read(_MAX_CONFIG_BYTES + 1)
        if len(data) > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{file} is too large", got=f"over {_MAX_CONFIG_BYTES} bytes", fix="Name a TOML file.")
        return tomllib.loads(data.decode())
    except OSError as exc:
        raise ConfigError(
            f"{file} cannot be read",
            got=exc.strerror,
            fix="Name an existing file: bintally agent run --config FILE; deploy/agent.example.toml is a start.",
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not valid TOML", got=exc, fix="Correct the line that is named.") from exc


def _config_error(file: Path, exc: ValidationError) -> ConfigError:
    problems = exc.errors(include_url=False)
    first = problems[0]
    key = key_path(first["loc"])
    others = ", ".join(dict.fromkeys(key_path(problem["loc"]) for problem in problems[1:6]))
    more = f" Also wrong: {others}." if others else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(AgentConfig, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else "Remove it, or see deploy/agent.example.toml."
        return ConfigError(
            f"{file}: {key} is not a known key",
            got=first["loc"][-1],
            expected=f"one of {', '.join(known)}",
            fix=hint + more,
        )
    if first["type"] == "missing":
        return ConfigError(f"{file}: {key} is missing", fix=f"Add it; deploy/agent.example.toml shows how.{more}")
    return ConfigError(
        f"{file}: {key or 'the file'} is wrong",
        got=_shown(first),
        expected=_expectation(first),
        fix=f"Correct it.{more}",
    )


def _shown(problem: ErrorDetails) -> str:
    text = shown_source(repr(problem["input"]))
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - one line of a terminal


def _expectation(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def key_path(location: Sequence[int | str]) -> str:
    """Write a pydantic location the way a reader of TOML would.

    Args:
        location: For example ("cameras", 0, "visit", "frames").

    Returns:
        For example "cameras[0].visit.frames".
    """
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("int", "str"):  # pydantic's branches of a union are not keys
            text += f".{part}" if text else part
    return text


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _section_of(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := _section_of(part))), None)
    return None


def _with_absolute_paths(value: object, folder: Path, environment: Mapping[str, str], key: str = "") -> Any:  # noqa: ANN401 - a tree as TOML gives it
    if isinstance(value, dict):
        return {name: _with_absolute_paths(child, folder, environment, name) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_with_absolute_paths(child, folder, environment, key) for child in value)
    if isinstance(value, Path):
        return _absolute(value, folder, environment, key)
    if key == "source" and isinstance(value, str) and "://" not in value:
        return str(_absolute(Path(value), folder, environment, key))
    return value


def _absolute(path: Path, folder: Path, environment: Mapping[str, str], key: str) -> Path:
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if key in _SECRETS and credentials and _is_file(Path(credentials) / path, key):
        return Path(credentials) / path
    return folder / path.expanduser()


def _is_file(path: Path, key: str) -> bool:
    try:
        return path.is_file()
    except OSError as exc:
        fix = 'Name what lies in /etc/bintally/credentials without its folder, like "mqtt-password": systemd finds it.'
        raise ConfigError(f"{key} {path} cannot be reached", got=exc.strerror, fix=fix) from exc


def _settings(section: BaseModel, raw: object, prefix: str = "") -> Iterator[Setting]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        given = raw.get(name) if isinstance(raw, dict) else None
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from _settings(value, given, f"{key}.")
        elif isinstance(value, tuple) and all(isinstance(entry, BaseModel) for entry in value) and value:
            entries = given if isinstance(given, list) else []
            for index, entry in enumerate(value):
                yield from _settings(entry, entries[index] if index < len(entries) else None, f"{key}[{index}].")
        else:
            shown = str(value) if isinstance(value, Path) else value
            if name == "source" and isinstance(value, str):
                shown = shown_source(value)
            yield Setting(key, shown, "default" if given is None else "file")
