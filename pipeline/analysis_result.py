"""What a node has found in a raw run, up to one of its events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineKeyError, near


@dataclass(frozen=True, eq=False)
class AnalysisResult(Mapping[str, Any]):
    """The results of a node, by key, as they stand in its streams; empty while nothing is known.

    It is a copy: what comes later does not change it. It is equal to the dict of the same items.

    Attributes
    ----------
    data
        The results, by key. Of a node with summaries and per-event results: both; where a key is in both, the summary.
    node
        The name of the node.
    run_uid
        Of the raw run.
    analysis_uid
        Of the analysis run.
    n_events
        How many raw events they are of.
    raw_seq_num
        The `seq_num` of the last of them; 0 if there is none.
    is_final
        Whether the raw run is over: then they are what stands in `final`.

    >>> peak = AnalysisResult({"det_cen": 0.5}, "peak", "raw", "analysis", n_events=3, raw_seq_num=3, is_final=False)
    >>> peak["det_cen"], peak.n_events, peak == {"det_cen": 0.5}
    (0.5, 3, True)
    >>> peak["det_cnt"]
    Traceback (most recent call last):
    pipeline.errors.PipelineKeyError: Node 'peak' has no result 'det_cnt' after 3 events of raw run raw; did you mean
    'det_cen'? There are ['det_cen'].
    """

    data: Mapping[str, Any]
    node: str
    run_uid: str
    analysis_uid: str
    n_events: int
    raw_seq_num: int
    is_final: bool

    def __getitem__(self, key: str) -> Any:
        if key not in self.data:
            raise PipelineKeyError(
                f"Node {self.node!r} has no result {key!r} after {self.n_events} events of raw run {self.run_uid}"
                f"{near(str(key), self.data)}"
            )
        return self.data[key]

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)
