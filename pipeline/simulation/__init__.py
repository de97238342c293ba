"""A simulated beamline: a powder that changes its phase in a furnace, before an area detector that writes HDF5."""

from pipeline.simulation.area_detector import AreaDetector as AreaDetector
from pipeline.simulation.beam import Beam as Beam
from pipeline.simulation.diffraction import Diffraction as Diffraction
from pipeline.simulation.frame_file import FrameFile as FrameFile
from pipeline.simulation.phase import Phase as Phase
from pipeline.simulation.powder import Powder as Powder
from pipeline.simulation.powder_beamline import PowderBeamline as PowderBeamline
from pipeline.simulation.ramp import ramp as ramp
from pipeline.simulation.sensor import Sensor as Sensor
from pipeline.simulation.setting import Setting as Setting
