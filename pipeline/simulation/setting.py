"""Something that can be set at once: a furnace's temperature, a shutter."""

import time
from typing import Any

from bluesky.protocols import Reading
from event_model import DataKey


class Setting:
    """A movable device that is at once where it is sent to, such as the temperature of a furnace.

    Parameters
    ----------
    name
        Of the device, and of its field.
    value
        Where it is at first.
    units
        Of the value.

    >>> furnace = Setting("temperature", 300.0, "K")
    >>> furnace.set(450.0).done, furnace.value, furnace.describe()["temperature"]["units"]
    (True, 450.0, 'K')
    """

    parent = None

    def __init__(self, name: str, value: float, units: str) -> None:
        self.name, self.value, self.units = name, value, units
        self._since = time.time()

    def set(self, value: float) -> Any:
        """Go there."""
        from ophyd.sim import NullStatus

        self.value, self._since = float(value), time.time()
        return NullStatus()

    def read(self) -> dict[str, Reading[float]]:
        """Return where it is, and since when."""
        return {self.name: {"value": self.value, "timestamp": self._since}}

    def describe(self) -> dict[str, DataKey]:
        """Return what the value is."""
        key: DataKey = {"source": f"sim://{self.name}", "dtype": "number", "shape": [], "units": self.units}
        return {self.name: {**key, "dtype_numpy": "<f8"}}

    @property
    def position(self) -> float:
        """Where it is, as plans ask for it."""
        return self.value

    @property
    def hints(self) -> dict[str, Any]:
        """What of it is worth a look."""
        return {"fields": [self.name]}
