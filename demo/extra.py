"""The packages of the `demo` extra, looked for before anything is started."""

from __future__ import annotations

from importlib.util import find_spec

from bundle.errors import ConfigError


def require(*packages: str) -> None:
    """Make sure that packages are installed.

    Args:
        packages: Their import names.

    Raises:
        ConfigError: One is missing; the message says how to install it.
    """
    for name in packages:
        if find_spec(name) is None:
            raise ConfigError(
                f"`bintally demo` needs the package {name}",
                fix="Install it from the project's folder with: pip install '.[demo]'",
            )
