"""The errors of this package: each is a `PipelineError` and a built-in one."""

from collections.abc import Collection
from difflib import get_close_matches


class PipelineError(Exception):
    """What every error of this package is.

    >>> try:
    ...     raise PipelineValueError("Mean reads 'nope', but stream 'primary' has ['det'].")
    ... except ValueError as error:
    ...     isinstance(error, PipelineError)
    True
    """


class PipelineValueError(PipelineError, ValueError):
    """A value that cannot be used where it stands."""


class PipelineTypeError(PipelineError, TypeError):
    """A value of a kind that cannot be used where it stands."""


class PipelineKeyError(PipelineError, KeyError):
    """A name that is not known where it is looked for."""

    __str__ = Exception.__str__  # KeyError shows its message quoted


class PipelineRuntimeError(PipelineError, RuntimeError):
    """Something asked for at a time when it cannot be done."""


class PipelineOSError(PipelineError, OSError):
    """A file, a socket or a server that does not do what it should."""


class AssetError(PipelineOSError):
    """An external asset that cannot be read: it names the file, what was wanted and what there is."""


class PipelineImportError(PipelineError, ImportError):
    """A package that is needed and not installed: it names the extra that brings it."""


class PipelineTimeoutError(PipelineError, TimeoutError):
    """Something that took longer than it was given."""


class ConfigError(PipelineValueError):
    """A configuration that is wrong: it names the file and the place, what was wanted and what there is."""


class RejectedValue(PipelineValueError):
    """A value that a reduction refuses: the event is left out of it and counted, and the work goes on."""


def near(name: str, known: Collection[str]) -> str:
    """Return what to say of a name that is not known: the nearest one, and all there are.

    >>> near("CentreOfMass", ["CenterOfMass", "Mean"])
    "; did you mean 'CenterOfMass'? There are ['CenterOfMass', 'Mean']."
    """
    guess = get_close_matches(name, known, 1)
    hint = f"did you mean {guess[0]!r}? There are" if guess else "there are"
    return f"; {hint} {sorted(known)}."
