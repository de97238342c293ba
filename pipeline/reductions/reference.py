"""Frames that others are corrected with: dark, flat."""

import hashlib
import math
from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, get_args

import numpy

from pipeline.errors import PipelineRuntimeError, PipelineValueError, RejectedValue, near
from pipeline.reductions.files import read_array
from pipeline.reductions.mean_frame import MeanFrame
from pipeline.state import pack, unpack

Array = numpy.ndarray
Data = Mapping[str, Any]
Late = Literal["wait", "pass", "fail"]

_WORDS = "file", "stream", "when", "run", "field", "n", "per", "late"
_SOURCES = "file", "stream", "when", "run"


class Reference:
    """The mean of the first frames of a kind, which other frames are corrected with.

    It is offered the data of events, and knows no document: whoever offers them knows where they come from.

    Parameters
    ----------
    role
        What it is for: `"dark"`, `"flat"`.
    field
        The field that its frames are in: arrays, or series of them.
    stream
        The stream that they are in; None: that of the frames that are corrected.
    when
        They are the events whose fields have these values: `{"image_key": 2}`.
    run
        The uid of another run that they are in.
    file
        A .npy or .npz file with the frame, instead; see `read_array`.
    n
        Of how many events the mean is taken.
    per
        A field that tells the gain or the exposure: there is one mean for each of its values, of `n` events each.
    late
        What becomes of a frame whose reference is not there yet: it has to `"wait"`, it may `"pass"` as it is, or it is
        a reason to `"fail"`.
    sha256
        Of the file, if that is known.

    Raises
    ------
    PipelineValueError
        If that does not go together, or the file is none.

    >>> dark = Reference("dark", "det", when={"image_key": 2}, n=2)
    >>> for counts in (3, 4):
    ...     event = {"det": numpy.full((1, 2), counts, "u2"), "image_key": 2}
    ...     print(dark.wants("primary", event), dark.lacks(event))
    ...     dark.offer(event)
    True dark of 'det' has 0 of 2 events with {'image_key': 2}
    True dark of 'det' has 1 of 2 events with {'image_key': 2}
    >>> dark.frame({"image_key": 0})
    array([[3.5, 3.5]])
    """

    def __init__(
        self,
        role: str,
        field: str,
        stream: str | None = None,
        when: Mapping[str, Any] | None = None,
        run: str | None = None,
        file: str | None = None,
        n: int = 1,
        per: str | None = None,
        late: Late = "wait",
        sha256: str | None = None,
    ) -> None:
        self.role, self.field, self.stream, self.when = role, field, stream, dict(when or {})
        self.run, self.file, self.n, self.per, self.late = run, file, n, per, late
        self._check()
        self._means: dict[Any, MeanFrame] = {}  # value of `per` -> what was taken in
        self._frames: dict[Any, Array] = {}  # and the mean of it, once it is complete
        self._is_over = False
        self._of_file: str | None = None  # the SHA-256
        if file is not None:
            self._frames[None], self._of_file = _frame_of(file, sha256)

    @classmethod
    def of(cls, role: str, spec: Any, field: str, sha256: str | None = None) -> "Reference":
        """Return the reference that is written so: the name of a file, or what the parameters above are, by name.

        >>> Reference.of("dark", {"stream": "dark", "n": 10, "per": "det_gain"}, "det").n
        10
        """
        if isinstance(spec, str):
            return cls(role, field, file=spec, sha256=sha256)
        if not isinstance(spec, Mapping) or not spec:
            raise PipelineValueError(f"{role} is {spec!r}; wanted the name of a file, or one of {list(_SOURCES)}.")
        for word in spec:
            if word not in _WORDS:
                raise PipelineValueError(f"{role} has {word!r}{near(str(word), _WORDS)}")
        return cls(**{"role": role, "field": field, **spec, "sha256": sha256})

    def anew(self) -> "Reference":
        """Return one that has taken in nothing: what is in a file it has."""
        new = copy(self)
        new._means, new._is_over = {}, False
        new._frames = {} if self.file is None else dict(self._frames)
        return new

    def _check(self) -> None:
        texts = {"field": self.field, "stream": self.stream, "run": self.run, "file": self.file, "per": self.per}
        for word, text in texts.items():
            if text is not None and (not isinstance(text, str) or not text):
                raise PipelineValueError(f"{self.role}: {word} is {text!r}; wanted text.")
        if type(self.n) is not int or self.n < 1:
            raise PipelineValueError(f"{self.role}: n is {self.n!r}; wanted 1 or more.")
        if self.late not in get_args(Late):
            raise PipelineValueError(f"{self.role}: late is {self.late!r}{near(str(self.late), get_args(Late))}")
        elsewhere = [word for word in ("stream", "when", "run") if getattr(self, word)]
        if self.file is not None and (elsewhere or self.per):
            raise PipelineValueError(f"{self.role} is of a file; wanted no {(elsewhere or ['per'])[0]!r} then.")
        if self.file is None and not elsewhere:
            raise PipelineValueError(f"{self.role}: wanted one of {list(_SOURCES)}, to know where its frames are.")

    # frames ----------------------------------------------------------------------------------------------------

    @property
    def is_among(self) -> bool:
        """Whether its frames are among those that are corrected."""
        return self.file is None and self.run is None and self.stream is None

    def wants(self, stream: str, data: Data) -> bool:
        """Tell whether an event is one of those that it is made of."""
        return self.file is None and self.stream in (None, stream) and self.is_of(data)

    def is_of(self, data: Data) -> bool:
        """Tell whether the fields of an event have the values of its frames."""
        return all(field in data and _plain(data[field]) == value for field, value in self.when.items())

    def offer(self, data: Data) -> None:
        """Take in the frames of one event that it wants; those after the first `n` events change nothing.

        Raises
        ------
        RejectedValue
            If they are none, or of another shape: the event is left out.
        KeyError
            If the event has no such field.
        """
        key = self._key(data)
        if key in self._frames:
            return
        mean = self._means.get(key) or MeanFrame()
        try:
            mean.add(data[self.field])
        except RejectedValue as error:
            raise RejectedValue(f"{self.role} of {self.field!r}: {error}") from None
        self._means[key] = mean
        if mean.n_events >= self.n or self._is_over:
            self._complete(key)

    def _complete(self, key: Any) -> None:
        self._frames[key] = self._means.pop(key).mean()

    def end(self) -> None:
        """Know that no more will come: fewer events than `n` are enough then, if there is one."""
        self._is_over = True
        for key in list(self._means):
            self._complete(key)

    def lacks(self, data: Data) -> str:
        """Return what an event with these data has to wait for, in words; nothing if it has not to."""
        key = self._key(data)
        if self.late == "pass" or key in self._frames:
            return ""
        n = self._means[key].n_events if key in self._means else 0
        return f"{self.role} of {self.field!r} has {n} of {self.n} events{self._place(key)}"

    def _place(self, key: Any) -> str:
        when = dict(self.when) | ({self.per: key} if self.per else {})
        stream = f" of stream {self.stream!r}" if self.stream else ""
        return f"{stream}{f' of run {self.run}' if self.run else ''}{f' with {when}' if when else ''}"

    def frame(self, data: Data) -> Array | None:
        """Return the mean for an event with these data: float64, read-only; None if it is late and that may be.

        Raises
        ------
        RejectedValue
            If it is late, and the event should have waited.
        PipelineRuntimeError
            If it is late, and that is a reason to fail.
        """
        lack = self.lacks(data)
        if lack:
            raise PipelineRuntimeError(f"{lack}.") if self.late == "fail" else RejectedValue(f"{lack}.")
        return self._frames.get(self._key(data))

    def _key(self, data: Data) -> Any:
        if self.per is None:
            return None
        key = _plain(data[self.per])
        if not isinstance(key, str | int | float) or (isinstance(key, float) and not math.isfinite(key)):
            raise RejectedValue(f"{self.role}: {self.per!r} is {key!r}; wanted one number or text.")
        return key

    # what is told of it ----------------------------------------------------------------------------------------

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the file, or of the bytes of the means, one after the other; None while there is none."""
        if self._of_file is not None or not self._frames:
            return self._of_file
        return _digest(*(self._frames[key] for key in sorted(self._frames, key=repr)))

    def provenance(self) -> list[dict[str, Any]]:
        """Return what is told of each mean there is: `role`, `sha256`, the `uid` of its run, its value of `per`."""
        run = {} if self.run is None else {"uid": self.run}
        if self.per is None:
            return [{"role": self.role, **run, "sha256": self.sha256}] if self._frames else []
        return [
            {"role": self.role, **run, self.per: key, "sha256": _digest(self._frames[key])}
            for key in sorted(self._frames, key=repr)
        ]

    def state(self) -> dict[str, Any]:
        """Return what was taken in, as JSON values and arrays; of a file nothing."""
        frames = {} if self.file is not None else self._frames
        taken = {"means": self._means, "frames": frames, "is_over": self._is_over}
        return {key: pack(value, f"{self.role}: {key}", "") for key, value in taken.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._means, self._is_over = unpack(state["means"], ""), state["is_over"]
        frames = unpack(state["frames"], "")
        for frame in frames.values():
            frame.setflags(write=False)
        self._frames |= frames


def _frame_of(file: str, sha256: str | None) -> tuple[Array, str]:
    frame, digest = read_array(file, sha256)
    if frame.dtype.kind not in "biuf" or not frame.ndim:
        raise PipelineValueError(f"{file!r} has {frame.dtype} of shape {list(frame.shape)}; wanted a frame of numbers.")
    frame = frame.astype(float)
    frame.setflags(write=False)
    return frame, digest


def _plain(value: Any) -> Any:
    """Return a value as Python has it: an array of one number is that number."""
    if isinstance(value, numpy.generic | numpy.ndarray) and value.size == 1:
        return value.item()
    return value


def _digest(*frames: Array) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.tobytes())
    return digest.hexdigest()
