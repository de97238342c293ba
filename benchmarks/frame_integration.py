"""Curves of a frame of 4.2 Mpx, uint16, 1000 bins, with mask, dark and flat; beside pyFAI, in turns, and without numba.

Dark and flat alone are beside numpy's way, into an array that is there already; what memory allows is told by a copy
of the image: 17 MB read and written.
"""

import tempfile
import time
from pathlib import Path

import numpy

from benchmarks.frame_moments import SHAPE, milliseconds, numba
from pipeline.reductions import AzimuthalIntegration, Correct, Sinogram
from pipeline.reductions.frame_integrator import FrameIntegrator
from pipeline.reductions.geometry import Geometry
from pipeline.reductions.pixel_splitting import split_pixels

N_FRAMES, NPT = 6, 1000
PONI = {"dist": 0.2, "poni1": 0.0768, "poni2": 0.0768, "wavelength": 1e-10, "pixel1": 75e-6, "pixel2": 75e-6}


def parts():
    """A dark, a flat and a mask, as detectors have them."""
    rng = numpy.random.default_rng(0)
    dark, flat = rng.normal(100, 5, SHAPE), rng.normal(1, 0.05, SHAPE)
    return {"dark": dark, "flat": flat, "mask": rng.random(SHAPE) < 0.01}


def saved(folder, images):
    for name, image in images.items():
        numpy.save(Path(folder) / f"{name}.npy", image)
    return {name: str(Path(folder) / f"{name}.npy") for name in images}


def fed(correct, integration):
    """What is done with a frame: it is corrected, and integrated."""

    def feed(frame):
        correct.update({"cam": frame})
        integration.update(correct.feed())
        integration.result()

    return feed


def of_another(dtype):
    """What is done with a frame of another dtype that is not corrected."""
    integration = AzimuthalIntegration("cam", PONI, NPT)
    image = numpy.full(SHAPE, 100, dtype)

    def feed(frame):
        integration.update({"cam": image})
        integration.result()

    return feed


def imaged(correct):
    def feed(frame):
        correct.update({"cam": frame})
        numpy.asarray(correct.feed()["cam_corrected"])

    return feed


def rowed(correct):
    """What is done with a frame of which a row goes into a sinogram."""
    sinogram = Sinogram("cam_corrected", SHAPE[0] // 2, "angle", n=1000)

    def feed(frame):
        data = {"cam": frame, "angle": 0.0}
        correct.update(data)
        sinogram.update(data | correct.feed())

    return feed


def pyfais(images):
    integrator = Geometry(PONI).integrator({})
    dark, flat = (images[name].astype("f4") for name in ("dark", "flat"))
    options = {"unit": "q_A^-1", "method": ("bbox", "csr", "cython"), "mask": images["mask"], "dark": dark}
    return lambda frame: integrator.integrate1d_ng(frame, NPT, flat=flat, **options)


def numpys(images):
    out = numpy.empty(SHAPE, numpy.float32)
    dark, gain = images["dark"].astype("f4"), (1 / images["flat"]).astype("f4")

    def correct(frame):
        numpy.subtract(frame, dark, out=out, dtype=numpy.float32, casting="unsafe")
        numpy.multiply(out, gain, out=out)

    return correct


def integrations(files, images):
    """What makes curves of a frame, by name."""
    flatless = {name: files[name] for name in ("dark", "mask")}
    return {
        "integration": fed(Correct("cam", **files), AzimuthalIntegration("cam_corrected", PONI, NPT)),
        "no flat": fed(Correct("cam", **flatless), AzimuthalIntegration("cam_corrected", PONI, NPT)),
        "int32": of_another("i4"),
        "float32": of_another("f4"),
        "pyFAI": pyfais(images),
    }


def corrections(files, images):
    """What makes an image of a frame, by name."""
    out, like = numpy.empty(SHAPE, numpy.float32), numpy.zeros(SHAPE, numpy.float32)
    return {
        "dark and flat": imaged(Correct("cam", files["dark"], files["flat"])),
        "a row of it": rowed(Correct("cam", files["dark"], files["flat"])),
        "dark and flat, numpy": numpys(images),
        "copy": lambda frame: numpy.copyto(out, like),
    }


def twins(files, images):
    """What is done without numba, by name."""
    curve, image = integrations(files, images)["integration"], corrections(files, images)["dark and flat"]
    return {"twin": curve, "dark and flat, twin": image}


def frame_integration():
    """Milliseconds a frame."""
    rng, images = numpy.random.default_rng(1), parts()
    frames = [rng.poisson(100, SHAPE).astype("u2") for _ in range(N_FRAMES)]
    with tempfile.TemporaryDirectory() as folder:
        files = saved(folder, images)
        took = milliseconds(integrations(files, images), frames) | milliseconds(corrections(files, images), frames)
        with numba(False):
            took |= milliseconds(twins(files, images), frames)
    for name in ("pyFAI", "int32", "float32", "no flat", "dark and flat, numpy", "copy"):
        print(f"frame_integration: {name}: {took[name]:.2f} ms")
    yield "integration, mask, dark, flat, ms", took["integration"], 5.0, took["integration"] <= 5
    yield "integration without numba, ms", took["twin"], 15.0, took["twin"] <= 15
    times = took["pyFAI"] / took["integration"]
    yield "pyFAI's time over ours", times, 10.0, times >= 10
    image = took["dark and flat"]
    yield "dark and flat, ms", image, 1.1, image <= 1.1
    print(f"frame_integration: a row of it, into a sinogram: {took['a row of it']:.2f} ms")
    times = image / took["a row of it"]
    yield "its time over that of a row alone", times, 5.0, times >= 5
    yield "dark and flat without numba, ms", took["dark and flat, twin"], 3.0, took["dark and flat, twin"] <= 3
    times = image / took["copy"]
    yield "dark and flat, over a copy", times, 1.6, times <= 1.6
    yield from shares()


def shares():
    """Seconds to work out the shares of pixels, ours besides pyFAI's; and what they take, in MB."""
    began = time.perf_counter()
    splitting = split_pixels(Geometry(PONI).integrator({}), SHAPE, (NPT,))
    middle = time.perf_counter()
    integrator = FrameIntegrator(splitting)
    integrator.sums(numpy.zeros(SHAPE, "u2"), None, None, False)
    took = time.perf_counter() - middle
    print(f"frame_integration: pyFAI splits pixels in {middle - began:.2f} s")
    yield "shares sorted, s", took, 3.0, took <= 3
    size = held(integrator) / 1e6
    yield "shares held, MB", size, 100.0, size <= 100


def held(integrator):
    """Return the bytes of the arrays that an integrator keeps."""
    seen, waiting = {}, [integrator]
    while waiting:
        each = waiting.pop()
        if isinstance(each, numpy.ndarray):
            seen[each.__array_interface__["data"][0]] = each.nbytes
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
        elif type(each).__module__.startswith("pipeline"):
            waiting += vars(each).values()
    return sum(seen.values())
