"""Incremental numbers of one stream."""

from pipeline.reductions.background import Background as Background
from pipeline.reductions.bin import Bin as Bin
from pipeline.reductions.center_of_mass_2d import CenterOfMass2D as CenterOfMass2D
from pipeline.reductions.correct import Correct as Correct
from pipeline.reductions.curve_fit import CurveFit as CurveFit
from pipeline.reductions.curve_peak import CurvePeak as CurvePeak
from pipeline.reductions.drift import Drift as Drift
from pipeline.reductions.fit import Fit as Fit
from pipeline.reductions.flow import Flow as Flow
from pipeline.reductions.focus import Focus as Focus
from pipeline.reductions.frame_average import FrameAverage as FrameAverage
from pipeline.reductions.histogram import Histogram as Histogram
from pipeline.reductions.map import Map as Map
from pipeline.reductions.multi_tau import MultiTau as MultiTau
from pipeline.reductions.normalize import Normalize as Normalize
from pipeline.reductions.peak_statistics import PeakStatistics as PeakStatistics
from pipeline.reductions.projection import Projection as Projection
from pipeline.reductions.quality import Quality as Quality
from pipeline.reductions.reduction import Reduction as Reduction
from pipeline.reductions.regions import Regions as Regions
from pipeline.reductions.similarity import Similarity as Similarity
from pipeline.reductions.rotation_center import RotationCenter as RotationCenter
from pipeline.reductions.sinogram import Sinogram as Sinogram
from pipeline.reductions.statistics import Mean as Mean
from pipeline.reductions.statistics import Statistics as Statistics
from pipeline.reductions.xas import XAS as XAS
