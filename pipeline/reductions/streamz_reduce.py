"""Reductions in streamz graphs: `stream.reduce(Mean("det"))`. To import this module registers it."""

from copy import deepcopy
from typing import Any

from streamz import Stream

from pipeline.errors import RejectedValue
from pipeline.reductions.reduction import Reduction


@Stream.register_api()
class reduce(Stream):
    """Let a reduction take in each dict, and emit what is known then.

    Parameters
    ----------
    upstream
        Of dicts: the data of events, or what was made of them.
    reduction
        A prototype: it is copied.

    >>> from pipeline.reductions import Mean
    >>> source = Stream()
    >>> means = source.reduce(Mean("det")).pluck("det_mean").sink_to_list()
    >>> for det in (1.0, 2.0, 6.0): source.emit({"det": det})
    >>> means
    [1.0, 1.5, 3.0]
    """

    def __init__(self, upstream: Stream, reduction: Reduction, **kwargs: Any) -> None:
        self.reduction = deepcopy(reduction)
        super().__init__(upstream, **kwargs)

    def update(self, x: dict[str, Any], who: Any = None, metadata: Any = None) -> Any:
        """Take in one dict; one that the reduction rejects is left out."""
        try:
            self.reduction.update(x)
        except RejectedValue:
            return []
        result = self.reduction.result()
        return [] if result is None else self._emit(result, metadata=metadata)
