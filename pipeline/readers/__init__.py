"""External assets, as arrays."""

from pipeline.readers.assets import Assets as Assets
from pipeline.readers.reader import Reader as Reader
from pipeline.readers.roots import Roots as Roots
from pipeline.readers.row_shape import RowShape as RowShape
