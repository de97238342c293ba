"""Where the pixels of a detector are: the geometry of an experiment, as pyFAI has it."""

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineImportError, PipelineOSError, PipelineValueError, RejectedValue, near
from pipeline.reductions.expression import Expression
from pipeline.reductions.reduction import Data
from pipeline.reductions.values import as_number

_LENGTHS = "dist", "poni1", "poni2", "wavelength", "pixel1", "pixel2"
_WORDS = *_LENGTHS, "rot1", "rot2", "rot3", "detector"
_SAME = 1e-4  # of a value: what the readback of a motor that stands still may differ by


class Geometry:
    """The geometry of an experiment: of a .poni file, or of numbers, or of fields of the data.

    Parameters
    ----------
    poni
        The name of a .poni file, as pyFAI writes it; or a dict of `dist`, `poni1`, `poni2`, `wavelength`, `pixel1`,
        `pixel2` in metres, `rot1`, `rot2`, `rot3` in radians, and `detector`, a name that pyFAI knows, in place of the
        pixels. Any of the numbers may be text: arithmetic over fields, such as `"det_z / 1000"`; see `Expression`.
    sha256
        Of the file, if that is known.

    Raises
    ------
    PipelineOSError
        If the file cannot be read.
    PipelineValueError
        If it is none, or was changed, or the dict is no geometry.

    >>> poni = {"dist": "det_z / 1000", "poni1": 0.1, "poni2": 0.1, "pixel1": 1e-4, "pixel2": 1e-4}
    >>> geometry = Geometry(poni)
    >>> geometry.fields, geometry.values({"det_z": 250.0})
    (('det_z',), {'dist': 0.25})
    """

    def __init__(self, poni: str | Mapping[str, Any], sha256: str | None = None) -> None:
        self.sha256: str | None = None
        self._numbers: dict[str, Any] = {}
        self._expressions: dict[str, Expression] = {}
        self._file: dict[str, str] = {}
        if isinstance(poni, str):
            self._place = repr(poni)
            self._file, self.sha256 = _read(poni, sha256)
        else:
            self._place = "poni"
            self._take(poni)
        self.fields = tuple(dict.fromkeys(field for each in self._expressions.values() for field in each.fields))

    def _take(self, poni: Any) -> None:
        if not isinstance(poni, Mapping):
            raise PipelineValueError(f"poni is {poni!r}; wanted the name of a .poni file, or a dict.")
        for word, value in poni.items():
            if word not in _WORDS:
                raise PipelineValueError(f"poni has {word!r}{near(str(word), _WORDS)}")
            if isinstance(value, str) and word != "detector":
                self._expressions[word] = Expression(value)
            else:
                self._numbers[word] = _checked(word, value)
        wanted = ("dist", "poni1", "poni2", *(() if "detector" in poni else ("pixel1", "pixel2")))
        if lacking := [word for word in wanted if word not in poni]:
            raise PipelineValueError(f"poni has {sorted(poni)}; wanted {lacking} too.")

    def values(self, data: Data) -> dict[str, float]:
        """Return the numbers that an event tells.

        Raises
        ------
        RejectedValue
            If one cannot be.
        KeyError
            If the event has no such field.
        """
        found: dict[str, float] = {}
        for word, expression in self._expressions.items():
            found[word] = value = float(expression.value([as_number(data[field]) for field in expression.fields]))
            if not _is_possible(word, value):
                raise RejectedValue(f"{word} is {expression.text!r}, which is {value}; wanted a number that can be.")
        return found

    def integrator(self, values: Mapping[str, float]) -> Any:
        """Return pyFAI's AzimuthalIntegrator of this geometry.

        Raises
        ------
        PipelineImportError
            If there is no pyFAI.
        PipelineValueError
            If pyFAI makes nothing of it.
        """
        logging.getLogger("silx.opencl").setLevel(logging.ERROR)  # which warns of what is not wanted here
        try:
            from pyFAI.integrator.azimuthal import AzimuthalIntegrator
            from pyFAI.io.ponifile import PoniFile
        except ImportError:
            raise PipelineImportError("wanted pyFAI; install bluesky-pipeline[frames].") from None
        reader: Any = AzimuthalIntegrator()
        try:
            if self._file:
                return reader.load(PoniFile(self._file))
            numbers = self._numbers | dict(values)
            return AzimuthalIntegrator(detector=_detector(numbers), **numbers)
        except PipelineValueError:
            raise
        except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            raise PipelineValueError(f"{self._place} is no geometry: {error}.") from None


def are_same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Tell whether two geometries are the same, but for what a readback does.

    >>> are_same({"dist": 0.25}, {"dist": 0.250001}), are_same({"dist": 0.25}, {"dist": 0.26})
    (True, False)
    """
    return all(math.isclose(value, other[word], rel_tol=_SAME, abs_tol=1e-12) for word, value in one.items())


def _detector(numbers: dict[str, Any]) -> Any:
    """Take out of the numbers what the detector is made of."""
    from pyFAI.detectors import Detector, detector_factory

    name, pixel1, pixel2 = (numbers.pop(word, None) for word in ("detector", "pixel1", "pixel2"))
    if name is None:
        return Detector(pixel1, pixel2)
    if name.lower() not in Detector.registry:
        raise PipelineValueError(f"detector is {name!r}; wanted a name that pyFAI knows.")
    return detector_factory(name)


def _checked(word: str, value: Any) -> Any:
    is_right = isinstance(value, str) if word == "detector" else type(value) in (int, float)
    if not is_right or (word != "detector" and not _is_possible(word, value)):
        raise PipelineValueError(f"poni: {word} is {value!r}; wanted {'text' if word == 'detector' else 'a number'}.")
    return value


def _is_possible(word: str, value: float) -> bool:
    return math.isfinite(value) and (value > 0 or word not in ("dist", "wavelength", "pixel1", "pixel2"))


def _read(path: str, sha256: str | None) -> tuple[dict[str, str], str]:
    """Return what a .poni file says, and its SHA-256."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PipelineOSError(f"wanted a .poni file at {path!r}: {error.strerror or error}.") from None
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise PipelineValueError(f"{path!r} has the SHA-256 {digest}; wanted {sha256}: the file was changed.")
    lines = [line.partition(":") for line in content.decode(errors="replace").splitlines() if line[:1] != "#"]
    words = {word.strip().lower(): value.strip() for word, colon, value in lines if colon}
    if not {"distance", "poni1", "poni2"} <= words.keys():
        raise PipelineValueError(f"{path!r} is no .poni file: it tells {sorted(words)}; wanted distance, poni1, poni2.")
    return words, digest
