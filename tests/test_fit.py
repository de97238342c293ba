"""Fits agree with lmfit, numpy and the certified values, and claim no peak where there is noise."""

import json
import math
import sys

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from lmfit.models import ConstantModel, GaussianModel, LinearModel, LorentzianModel, PseudoVoigtModel, StepModel
from scipy.special import betainc

from pipeline import Node, Pipeline
from pipeline.errors import PipelineImportError, PipelineValueError, RejectedValue
from pipeline.reductions import Fit
from pipeline.reductions.fit_model import FitModel
from pipeline.reductions.least_squares import incomplete_beta
from pipeline.reductions.lmfit_model import LmfitModel
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = math.nan
LMFIT = {
    "gaussian": GaussianModel,
    "lorentzian": LorentzianModel,
    "pseudo_voigt": PseudoVoigtModel,
    "step": lambda: StepModel(form="erf"),
}
TRUTH = {"amplitude": 9.0, "center": 0.4, "sigma": 0.9}


def points(x, y):
    return [{"x": float(a), "y": float(b)} for a, b in zip(x, y, strict=True)]


def fed(fit, events):
    for event in events:
        fit.update(event)
    return fit


def curve(model, n=61, noise=0.05, **changes):
    x = numpy.linspace(-5, 5, n)
    more = {"fraction": 0.4} if model == "pseudo_voigt" else {}
    y = LMFIT[model]().eval(x=x, **{**TRUTH, **more, **changes})
    return x, y + 7 + numpy.random.default_rng(1).normal(0, noise, n)


def lmfit_result(model, events, background=ConstantModel):
    """What lmfit finds, begun at the truth."""
    x, y = (numpy.array([event[key] for event in events]) for key in "xy")
    composed = LMFIT[model]() + background()
    level = {"c": 7.0} if background is ConstantModel else {"slope": 0.0, "intercept": 7.0}
    more = {"fraction": 0.4} if model == "pseudo_voigt" else {}
    options = {"ftol": 1e-13, "xtol": 1e-13}
    fit = composed.fit(y, composed.make_params(**TRUTH, **more, **level), x=x, fit_kws=options)
    right = {}
    for name, parameter in fit.params.items():
        key = "y_fit_" + {"c": "intercept"}.get(name, name)
        right |= {key: parameter.value, f"{key}_stderr": parameter.stderr}
    return {**right, "y_fit_redchi": fit.redchi, "y_fit_success": True}


@pytest.mark.parametrize("model", LMFIT)
def test_fits_agree_with_lmfit_at_every_prefix_that_has_the_whole_peak(model):
    events = points(*curve(model))

    def oracle(prefix):
        return lmfit_result(model, prefix) if len(prefix) > 50 else {}

    check_reduction(Fit("x", "y", model), events, oracle, rtol=1e-3)  # of its standard errors; values agree to 1e-6


@pytest.mark.parametrize("model", LMFIT)
def test_a_sloping_background_is_that_of_lmfit(model):
    x, y = curve(model)
    events = points(x, y + 0.3 * x)

    result = fed(Fit("x", "y", model, background="linear"), events).result()

    for key, value in lmfit_result(model, events, LinearModel).items():
        assert result[key] == pytest.approx(value, rel=2e-4), key


@pytest.mark.parametrize("model", LMFIT)
def test_a_fit_far_from_zero_is_as_good_as_one_near_it(model):
    x, y = curve(model)
    near = fed(Fit("x", "y", model, background="linear"), points(x, y)).result()
    far = fed(Fit("x", "y", model, background="linear"), points(x * 2.0**-10 + 2**13, y)).result()

    for name, scale in (("sigma", 2.0**-10), ("sigma_stderr", 2.0**-10), ("center_stderr", 2.0**-10), ("redchi", 1)):
        assert far[f"y_fit_{name}"] == pytest.approx(near[f"y_fit_{name}"] * scale, rel=1e-5), name
    assert far["y_fit_center"] - 2**13 == pytest.approx(near["y_fit_center"] * 2.0**-10, rel=1e-5)


def test_a_line_is_that_of_numpy_at_every_prefix():
    x = numpy.random.default_rng(2).permutation(numpy.linspace(3000, 3010, 20))
    y = 2 * x + 5 + numpy.random.default_rng(3).normal(0, 1, 20)

    def oracle(prefix):
        if len(prefix) < 3:
            return {"y_fit_slope": NAN, "y_fit_success": False}
        a, b = (numpy.array([event[key] for event in prefix]) for key in "xy")
        middle = a.mean()
        (slope, level), covariance = numpy.polyfit(a - middle, b, 1, cov="unscaled")
        redchi = ((b - level - slope * (a - middle)) ** 2).sum() / (len(a) - 2)
        errors = numpy.sqrt(numpy.diag(covariance) * redchi)
        return {
            "y_fit_slope": slope,
            "y_fit_intercept": level - slope * middle,
            "y_fit_slope_stderr": errors[0],
            "y_fit_intercept_stderr": math.hypot(errors[1], errors[0] * middle),
            "y_fit_redchi": redchi,
            "y_fit_success": True,
        }

    check_reduction(Fit("x", "y", "linear"), points(x, y), oracle, rtol=1e-7)


numbers = st.one_of(st.integers(-5, 50), st.just(NAN), st.just(math.inf), st.none())


@given(st.lists(st.tuples(st.integers(-20, 20), numbers), min_size=1, max_size=20), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_fits_keep_the_laws_whatever_the_points(pairs, split):
    check_reduction(Fit("x", "y"), [{"x": float(x), "y": y} for x, y in pairs], split=split)


@given(st.randoms(use_true_random=False), st.integers(0, 41))
@settings(max_examples=30, deadline=None)
def test_a_fit_does_not_depend_on_the_order_of_points(random, split):
    events = points(*curve("gaussian", 41))
    want = fed(Fit("x", "y"), events).result()
    shuffled = random.sample(events, len(events))

    one, other = fed(Fit("x", "y"), shuffled[:split]), fed(Fit("x", "y"), shuffled[split:])
    one.merge(other)

    assert one.result() == want
    assert want["y_fit_success"] is True


@pytest.mark.parametrize("model", [*LMFIT, "linear"])
@pytest.mark.parametrize("every", [1, 7])
def test_a_fit_that_follows_the_points_ends_where_the_whole_one_does(model, every):
    events = points(*(curve(model) if model in LMFIT else (range(30), numpy.sqrt(range(30)))))
    whole = fed(Fit("x", "y", model), events).result()

    check_reduction(
        Fit("x", "y", model, every=every),
        events,
        lambda prefix: whole if len(prefix) == len(events) else {},
        rtol=1e-4,  # the fraction of a pseudo-Voigt depends on the path; the others agree to 1e-6
    )


def test_a_page_follows_as_its_events_do():
    x, y = curve("gaussian")
    y[20], x[30] = NAN, NAN
    rows, page = fed(Fit("x", "y", every=8), points(x, y)), Fit("x", "y", every=8)

    for part in (slice(0, 5), slice(5, 40), slice(40, 61)):
        assert page.update_page({"y": y[part], "x": x[part], "other": ["text"] * len(x[part])}) == 0

    assert page.result() == rows.result()
    assert page.state()["data"].keys() == rows.state()["data"].keys()


@pytest.mark.parametrize("background", ["none", "constant", "linear"])
@pytest.mark.parametrize("model", LMFIT)
def test_the_derivatives_are_those_of_the_curve(model, background):
    fit, x = FitModel(model, background), numpy.linspace(-2, 3, 9)
    p = numpy.array([*TRUTH.values(), *([0.6] if model == "pseudo_voigt" else []), 7.0, -0.2])[: len(fit._names)]
    under = (numpy.ones(9), x - x.mean())[: len(fit.background)]

    _, slopes = fit._linearised(p, x, x, under)

    for i, h in enumerate(1e-6 * numpy.maximum(abs(p), 1)):
        above, below = (fit._linearised(p + sign * h * numpy.eye(len(p))[i], x, x, under)[0] for sign in (1, -1))
        assert slopes[i] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-8)


@given(st.floats(0.5, 1e5), st.sampled_from([0.5, 1.0, 1.5, 2.0, 7.0]), st.floats(0, 1, allow_subnormal=False))
def test_the_incomplete_beta_function_is_that_of_scipy(a, b, x):
    assert incomplete_beta(a, b, x) == pytest.approx(betainc(a, b, x), rel=1e-8, abs=1e-300)


def test_a_fit_follows_a_scan_in_a_pipeline():
    x, y = curve("gaussian", 41)
    kept = Kept()
    nodes = [Node("all", Fit("x", "y")), Node("tenth", Fit("x", "y", every=10, name="tenth"), every=10)]

    Pipeline(nodes, [kept]).replay(make_run({"x": list(x), "y": list(y)}, data_keys={"x": {"units": "mm"}}))

    kept.check_valid()
    every, tenth = kept.of_node("all"), kept.of_node("tenth")
    assert [row["y_fit_n"] for row in every.events("running")] == list(range(1, 42))
    assert [row["y_tenth_n"] for row in tenth.events("running")] == [10, 20, 30, 40]
    assert every.final() == every.events("running")[-1] | {"raw_seq_num": 41}
    assert every.final()["y_fit_success"] is tenth.final()["y_tenth_success"] is True
    assert tenth.final()["y_tenth_center"] == pytest.approx(every.final()["y_fit_center"], rel=1e-6)
    (descriptor,) = [doc for doc in every.named("descriptor") if doc["name"] == "final"]
    assert descriptor["data_keys"]["y_fit_center"]["units"] == "mm"


def test_a_dip_and_a_falling_step_have_negative_heights_and_positive_widths():
    x = numpy.linspace(-5, 5, 61)
    down = points(x, 10 - curve("gaussian")[1])
    falling = points(x, 10 - curve("step")[1])

    dip, step = fed(Fit("x", "y"), down).result(), fed(Fit("x", "y", "step"), falling).result()

    assert (dip["y_fit_success"], step["y_fit_success"]) == (True, True)
    assert dip["y_fit_amplitude"] == pytest.approx(-9, abs=0.2)
    assert step["y_fit_amplitude"] == pytest.approx(-9, abs=0.1)
    assert min(dip["y_fit_sigma"], step["y_fit_sigma"]) > 0.85
    assert step["y_fit_intercept"] == pytest.approx(3, abs=0.1)


def test_a_pseudo_voigt_of_a_peak_that_is_steeper_holds_its_fraction_at_nought():
    x = numpy.linspace(-5, 5, 61)
    y = numpy.exp(-((x - 0.4) ** 4)) + numpy.random.default_rng(1).normal(0, 0.01, 61)

    result = fed(Fit("x", "y", "pseudo_voigt"), points(x, y)).result()

    assert result["y_fit_success"] is True
    assert result["y_fit_fraction"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(result["y_fit_fraction_stderr"])
    assert 0 < result["y_fit_center_stderr"] < 0.03


# what is no peak -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LMFIT)
def test_noise_is_no_peak(model):
    rng = numpy.random.default_rng(4)
    fits = [Fit("x", "y", model) for _ in range(150)]

    claims = [fed(fit, points(range(31), rng.poisson(126, 31))).result()["y_fit_success"] for fit in fits]

    assert sum(claims) == 0


@pytest.mark.parametrize(
    "y",
    [
        numpy.ones(20),
        numpy.arange(20.0),
        numpy.exp(-numpy.arange(20.0) / 3),
        numpy.exp(-((numpy.arange(20.0) - 19) ** 2) / 20),
        numpy.eye(20)[7],
        [1.0, 5.0, 1.0],
    ],
    ids=["flat", "a line", "a decay", "half a peak", "one point", "fewer points than parameters"],
)
def test_what_is_no_peak_is_no_success(y):
    result = fed(Fit("x", "y"), points(range(len(y)), y)).result()

    assert result["y_fit_success"] is False


def test_points_without_a_number_are_left_out_and_counted():
    events = points(*curve("gaussian"))
    bad = [{"x": NAN, "y": 1.0}, {"x": 1.0, "y": None}, {"x": math.inf, "y": 1.0}, {"x": 1.0, "y": 10**400}]

    result = fed(Fit("x", "y"), [*bad, *events]).result()

    assert (result.pop("y_fit_n"), result.pop("y_fit_n_nan")) == (61, 4)
    want = fed(Fit("x", "y"), events).result()
    assert result == {key: want[key] for key in result}
    assert fed(Fit("x", "y"), bad).result()["y_fit_n_nan"] == 4
    assert Fit("x", "y").result() is None


@pytest.mark.parametrize("value", ["1.5", [1.0], numpy.array([1.0]), 1j])
def test_what_is_no_number_is_rejected_and_changes_nothing(value):
    fit = fed(Fit("x", "y"), points([0, 1], [2, 3]))

    with pytest.raises(RejectedValue, match="wanted a number"):
        fit.update({"x": 1.0, "y": value})

    assert fit.result()["y_fit_n"] == 2
    assert fit.update_page({"x": [1.0, 2.0], "y": [value, 4.0]}) == 1
    assert fit.result()["y_fit_n"] == 3


def test_units_are_those_of_what_was_multiplied():
    keys = {"x": {"units": "mm"}, "y": {"units": "count"}}

    described = Fit("x", "y", "pseudo_voigt", background="linear").describe(keys)

    units = {key.removeprefix("y_fit_"): value["units"] for key, value in described.items()}
    assert units["amplitude"] == units["amplitude_stderr"] == "count*(mm)"
    assert (units["center"], units["fwhm"], units["height"]) == ("mm", "mm", "count")
    assert (units["slope"], units["redchi"], units["fraction"]) == ("count/(mm)", "(count)**2", "dimensionless")
    assert Fit("x", "y", "step").describe(keys)["y_fit_amplitude"] == {"units": "count"}
    assert Fit("x", "y").describe({}) == {}


# models of lmfit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["skewed_gaussian", "SkewedGaussianModel", "Voigt", "moffat", "split_lorentzian"])
def test_models_of_lmfit_are_found_by_name_and_fitted_over_a_background(model):
    x = numpy.linspace(-5, 5, 61)
    composed = LmfitModel(model, "constant")._composed()
    wanted = composed.make_params(**TRUTH, slope=0.0, intercept=7.0)
    for name, value in {"gamma": 2.0, "beta": 2.0, "sigma_r": 1.5}.items():
        if name in wanted and not wanted[name].expr:
            wanted[name].set(value=value)
    wanted["slope"].set(vary=False)
    y = composed.eval(wanted, x=x) + numpy.random.default_rng(1).normal(0, 0.01, 61)
    right = composed.fit(y, wanted, x=x, fit_kws={"ftol": 1e-13, "xtol": 1e-13})

    result = fed(Fit("x", "y", model), points(x, y)).result()

    assert result["y_fit_success"] is True
    assert result["y_fit_redchi"] == pytest.approx(right.redchi, rel=1e-6)
    for name in ("center", "sigma", "intercept", *(["fwhm"] if "fwhm" in wanted else [])):
        assert result[f"y_fit_{name}"] == pytest.approx(right.params[name].value, rel=1e-4), name
        assert result[f"y_fit_{name}_stderr"] == pytest.approx(right.params[name].stderr, rel=1e-2), name


def test_a_model_of_lmfit_keeps_the_laws():
    x = numpy.linspace(0, 5, 12)
    y = 3 * numpy.exp(-x / 2) + numpy.random.default_rng(5).normal(0, 0.01, 12)

    check_reduction(Fit("x", "y", "a * exp(-x / tau)", start={"a": 1, "tau": 1}), points(x, y))
    check_reduction(Fit("x", "y", "exponential"), points(x, y))
    noise = numpy.random.default_rng(7).integers(0, 9, 10)
    check_reduction(Fit("x", "y", "voigt"), points(range(10), noise))


def test_a_model_of_lmfit_takes_noise_for_no_peak():
    rng = numpy.random.default_rng(6)
    fits = [fed(Fit("x", "y", "voigt"), points(range(31), rng.normal(5, 1, 31))) for _ in range(10)]

    assert not any(fit.result()["y_fit_success"] for fit in fits)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"model": "gausian"}, "did you mean 'gaussian'"),
        ({"background": "cubic"}, "background is 'cubic'; wanted 'auto'"),
        ({"every": -1}, "every is -1; wanted"),
        ({"start": {"centre": 1.0}}, "starts from 'centre'; wanted some of .'amplitude', 'center'"),
        ({"model": "a * x ** b"}, "wanted where to start from, of .'a', 'b'"),
        ({"model": "a * x", "start": {"b": 1}}, "starts from 'b'; wanted some of .'a'"),
        ({"model": "x.__class__ + 1"}, "wanted arithmetic, there is 'x.__class__'"),
        ({"model": "open('f')"}, "calls 'open'; wanted one of"),
        ({"model": "a * 'text'"}, "wanted arithmetic"),
        ({"model": "a * * x"}, "wanted an expression in x"),
    ],
)
def test_arguments_that_make_no_fit_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        Fit("x", "y", **arguments)


def test_lmfit_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmfit", None)

    with pytest.raises(PipelineImportError, match=r"bluesky-pipeline\[fit\]"):
        Fit("x", "y", "voigt")
    assert Fit("x", "y", "gaussian").result() is None


def test_a_fit_starts_where_it_is_told_to():
    x = numpy.linspace(0, 20, 201)
    two = points(x, 5 * numpy.exp(-((x - 5) ** 2)) + 4 * numpy.exp(-((x - 15) ** 2)) + 1)

    result = fed(Fit("x", "y", start={"center": 15, "sigma": 1, "amplitude": 4}), two).result()

    assert result["y_fit_center"] == pytest.approx(15, abs=0.1)


# real and certified data -----------------------------------------------------------------------------------------


def data_of(file):
    return [doc["data"] for name, doc in read_jsonl(file) if name == "event"]


def digits(have, want):
    return 16 if have == want else -math.log10(abs(have - want) / abs(want))


DIGITS = {"Gauss1": 10.5, "Gauss3": 9.9, "Misra1a": 10.8, "DanWood": 10.6, "Chwirut2": 8.3, "Thurber": 7.5}


@pytest.mark.parametrize("start", ["start1", "start2"])
@pytest.mark.parametrize("name", DIGITS)
def test_nist_sets_are_fitted_to_the_certified_digits(data_folder, name, start):
    reference = json.loads((data_folder / "nist_nonlinear" / "reference.json").read_text())[name]
    begin = {key: each[start] for key, each in reference["params"].items()}

    fit = fed(Fit("x", "y", reference["model"], start=begin), data_of(data_folder / "nist_nonlinear" / f"{name}.jsonl"))

    result = fit.result()
    assert result["y_fit_success"] is True
    for key, each in reference["params"].items():
        assert digits(result[f"y_fit_{key}"], each["certified"]) >= DIGITS[name]
        assert digits(result[f"y_fit_{key}_stderr"], each["stddev"]) >= 6.6
    n_rest = reference["npoints"] - len(begin)
    assert digits(result["y_fit_redchi"] * n_rest, reference["rss"]) >= 10.4


def test_the_line_of_norris_is_fitted_to_the_certified_digits(data_folder):
    reference = json.loads((data_folder / "nist_linear" / "reference.json").read_text())["Norris"]["certified"]

    result = fed(Fit("x", "y", "linear"), data_of(data_folder / "nist_linear" / "Norris.jsonl")).result()

    assert digits(result["y_fit_intercept"], reference["B0"]) >= 11
    assert digits(result["y_fit_slope"], reference["B1"]) >= 14
    assert digits(result["y_fit_slope_stderr"], reference["B1_sd"]) >= 11
    assert digits(math.sqrt(result["y_fit_redchi"]), reference["residual_sd"]) >= 11


@pytest.mark.parametrize("model", LMFIT)
@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("2ffe4d87_scan108_tune_mr", "m_stage_r", "I0_USAXS"),
        ("6cfeb213_scan102_tune_m2rp", "m_stage_r2p", "I0_USAXS"),
        ("b0aa6435_scan104_tune_a2rp", "a_stage_r2p", "PD_USAXS"),
    ],
)
def test_noise_without_beam_is_no_peak(data_folder, model, name, x, y):
    events = data_of(data_folder / "docs_aps_usaxs_2019" / f"{name}.jsonl")
    fit = fed(Fit(x, y, model), [data for data in events if x in data])

    assert fit.result()[f"{y}_fit_success"] is False


FOLDERS = "docs_aps_8id_2026", "docs_apstools_2025", "docs_spec_scans"


def test_peaks_of_beamlines_are_those_of_the_reference(data_folder):
    """Where lmfit found a peak, over a line, that has two flanks."""
    n = 0
    for folder in FOLDERS:
        for entry in json.loads((data_folder / folder / "reference.json").read_text()):
            for pair, wanted in (entry.get("peaks") or {}).items():
                y, _, x = pair.partition(" vs ")
                gaussian = (wanted or {}).get("lmfit_gauss_linear") or {}
                crossings = len(((wanted or {}).get("peakstats") or {}).get("crossings") or ())
                if not gaussian.get("is_a_peak") or crossings != 2 or gaussian["npoints"] < 20:
                    continue
                (file,) = (data_folder / folder).glob(entry["file"])
                result = fed(Fit(x, y, background="linear"), [d for d in data_of(file) if x in d and y in d]).result()
                assert result[f"{y}_fit_success"] is True, (entry["file"], pair)
                assert result[f"{y}_fit_redchi"] <= gaussian["redchi"] * (1 + 1e-9)
                for name in ("center", "sigma", "amplitude"):
                    want = gaussian["params"][name]
                    assert result[f"{y}_fit_{name}"] == pytest.approx(want["value"], abs=0.05 * want["stderr"])
                    # The reference's own derivatives are one-sided: far from x = 0 they cost its errors up to 6 %.
                    assert result[f"{y}_fit_{name}_stderr"] == pytest.approx(want["stderr"], rel=0.07)
                n += 1
    assert n >= 6
