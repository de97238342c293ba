"""The plan of a temperature ramp, with dark frames first."""

from collections.abc import Generator, Sequence
from typing import Any

from bluesky import plan_stubs, preprocessors

from pipeline.simulation.beam import Beam
from pipeline.simulation.setting import Setting


def ramp(
    detectors: Sequence[Any],
    furnace: Setting,
    beam: Beam,
    temperatures: Sequence[float],
    n_dark: int = 10,
    **metadata: Any,
) -> Generator[Any, Any, Any]:
    """Take dark frames into the stream `dark`, then a frame at each temperature into `primary`.

    Parameters
    ----------
    detectors
        What is triggered and read.
    furnace
        What is heated; it is read with the detectors, and so is the monitor of the beam.
    beam
        Its shutter is closed for the dark frames, and open afterwards.
    temperatures
        In K.
    n_dark
        How many dark frames.
    metadata
        What the start document says besides.

    >>> from pipeline.simulation import Beam, Setting
    >>> plan = ramp([], Setting("temperature", 300.0, "K"), Beam(), [300.0, 310.0], n_dark=1)
    >>> [message.args[0] if message.command == "set" else message.kwargs.get("name") for message in plan
    ...     if message.command in ("set", "create")]
    [0, 'dark', 1, 300.0, 'primary', 310.0, 'primary']
    """
    plan: Any = plan_stubs  # devices by protocol are not typed as bluesky has it
    told = {
        "plan_name": "ramp",
        "detectors": [each.name for each in detectors],
        "motors": [furnace.name],
        "num_points": len(temperatures),
        "hints": {"dimensions": [[[furnace.name], "primary"]]},
        **metadata,
    }

    def dark() -> Generator[Any, Any, Any]:
        yield from plan.mv(beam.shutter, 0)
        for _ in range(n_dark):
            yield from plan.trigger_and_read(list(detectors), name="dark")

    def light() -> Generator[Any, Any, Any]:
        yield from plan.mv(beam.shutter, 1)
        for temperature in temperatures:
            yield from plan.mv(furnace, temperature)
            yield from plan.trigger_and_read([*detectors, furnace, beam], name="primary")

    # Each is staged for itself, and so has files of its own: Tiled shows the frames of a file in one stream only.
    @preprocessors.run_decorator(md=told)
    def run() -> Generator[Any, Any, Any]:
        for part in (dark, light):
            yield from preprocessors.stage_wrapper(part(), list(detectors))

    return (yield from run())
