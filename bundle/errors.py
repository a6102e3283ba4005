"""The errors a person meets, grouped by who must act.

```
BintallyError                       exit code
├── ConfigError     the operator        78   flags, TOML, environment
├── InputError      whoever gave data   65   a photo, a folder, a dataset
├── BundleError     who published it    66
│   ├── ManifestError                        malformed, unknown key, wrong format version
│   ├── IntegrityError                       a file is missing, extra or altered
│   └── ParityError                          its models disagree beyond the budget
├── EngineError     the hardware        70   a runtime failed or returned nonsense
├── CameraError     transient           74
└── DeliveryError   transient           75
```
Exit codes follow sysexits.h. Restarting cannot help with 65, 66 and 78: a service manager should not try. Every message
reads: what failed: got X, expected Y; then what to do.
"""

from __future__ import annotations


class BintallyError(Exception):
    """Base of every error that bintally raises on purpose.

    Args:
        what: What failed, naming the thing (file, key, device).
        got: What was found, if that says anything.
        expected: What would have been right.
        fix: What the reader should do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(_sentence(what, got, expected, fix))


def _sentence(what: str, got: object, expected: object, fix: str | None) -> str:
    facts = []
    if got is not None:
        facts.append(f"got {got}")
    if expected is not None:
        facts.append(f"expected {expected}")
    text = f"{what}: {', '.join(facts)}" if facts else what
    return f"{text}. {fix}" if fix else text


class ConfigError(BintallyError):
    """A setting is wrong. The operator changes it; restarting does not help."""

    exit_code = 78


class InputError(BintallyError):
    """A photo, folder or dataset cannot be used as it is."""

    exit_code = 65


class BundleError(BintallyError):
    """A bundle must not run. Whoever published it has to publish another."""

    exit_code = 66


class ManifestError(BundleError):
    """manifest.json is missing, malformed or of a format this version does not read."""


class IntegrityError(BundleError):
    """A bundle's file is missing, unlisted, or is not the file that was published."""


class ParityError(BundleError):
    """Two models of one bundle disagree beyond the bundle's budget."""


class EngineError(BintallyError):
    """A runtime could not load a model, or returned something that is not a set of logits."""

    exit_code = 70


class CameraError(BintallyError):
    """A camera or video source gives no frames."""

    exit_code = 74


class DeliveryError(BintallyError):
    """A broker or an object store does not take what is handed to it."""

    exit_code = 75
