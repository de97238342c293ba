"""Fits and absorption spectra: a point taken in, and what asking costs; against lmfit with its defaults."""

import time
from statistics import median

import numpy
from lmfit.models import ConstantModel, GaussianModel

from pipeline.reductions import XAS, Fit

ROUNDS, N_POINTS, N_EVENTS = 11, 100, 20_000
X = numpy.linspace(-5, 5, N_POINTS)
Y = 7 + 5 * numpy.exp(-((X - 0.4) ** 2) / 1.28) + numpy.random.default_rng(0).normal(0, 0.1, N_POINTS)
ENERGY = 6950 + 1.7 * numpy.arange(450)
MU = 1.5 + numpy.arctan((ENERGY - 7112) / 2) / numpy.pi + numpy.random.default_rng(1).normal(0, 1e-3, 450)


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def milliseconds(*works):
    """Medians of works that take turns, ten times each, so that what else the machine does meets all of them."""
    rounds = [[median(seconds(work) for _ in range(10)) for work in works] for _ in range(ROUNDS)]
    return [1e3 * median(each) for each in zip(*rounds, strict=True)]


def microseconds_per_event(reduction, data):
    def feed():
        for each in data:
            reduction.update(each)

    return 1e6 * seconds(feed) / len(data)


def by_lmfit():
    model = GaussianModel() + ConstantModel()
    guess = GaussianModel().guess(Y - 7, x=X)
    model.fit(Y, model.make_params(**{name: guess[name].value for name in ("amplitude", "center", "sigma")}, c=7), x=X)


def fits():
    """Microseconds for an event, milliseconds for a fit of 100 points and a spectrum of 450, rows a second of pages."""
    events = [{"x": 0.001 * i, "y": 1.0 + i} for i in range(N_EVENTS)]
    for reduction in (Fit("x", "y"), XAS("x", "y")):
        cost = median(microseconds_per_event(reduction, events) for _ in range(7))
        yield f"{reduction.name}, us an event", cost, 10.0, cost <= 10
    model = Fit("x", "y")._model
    near = model.solve(X[:-1], Y[:-1])[0]
    warm, cold, lmfit = milliseconds(lambda: model.solve(X, Y, near), lambda: model.solve(X, Y), by_lmfit)
    yield "Fit of 100 points, warm, ms", warm, 0.5, warm <= 0.5
    yield "Fit of 100 points, cold, ms", cold, 1.0, cold <= 1
    yield "lmfit's time over that of warm", lmfit / warm, 10.0, lmfit / warm >= 10
    spectrum = XAS("energy", "mu")
    spectrum.update_page({"energy": ENERGY, "mu": MU})
    (asked,) = milliseconds(spectrum.result)
    yield "XAS of 450 points, ms", asked, 2.0, asked <= 2
    column = {"x": numpy.arange(1e6), "y": numpy.arange(1e6)}
    rate = 1e6 / median(seconds(lambda: Fit("x", "y").update_page(column)) for _ in range(7))
    yield "Fit, rows a second of pages", rate, 1e6, rate >= 1e6
