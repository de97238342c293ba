"""Incremental numbers of one stream."""

from pipeline.reductions.normalize import Normalize as Normalize
from pipeline.reductions.peak_statistics import PeakStatistics as PeakStatistics
from pipeline.reductions.reduction import Reduction as Reduction
from pipeline.reductions.statistics import Mean as Mean
from pipeline.reductions.statistics import Statistics as Statistics
