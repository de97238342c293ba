"""A configuration is data: what is wrong in it is said, with its place, before anything connects."""

import random
from pathlib import Path

import pytest
import yaml

from pipeline import Reduction
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.testing import make_run

ROOT = Path(__file__).parents[1]
GOOD = "nodes: [{name: n, reductions: [{Mean: det}]}]\n"


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_in_configs_loads_and_connects_to_nothing(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(path.parent)  # some refer to files there

    config = load(path)

    assert config.nodes
    assert list(tmp_path.iterdir()) == [tmp_path / "configs"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "nodes: [{name: n, reductions: [{CentreOfMass: det}]}]",
            r"nodes\[0\].reductions\[0\]: no reduction 'CentreOfMass'",
        ),
        ("nodes: [{name: n, reductions: [{Statistic: det}]}]", r"did you mean 'Statistics'\? There are \[.*'Mean', "),
        ("nodes: [{name: n, reductions: [{Mean: {feild: det}}]}]", r"Mean has no 'feild'; did you mean 'field'\?"),
        ("nodes: [{name: n, reductions: [{PeakStatistics: det}]}]", "missing a required argument: 'y'"),
        ("nodes: [{name: n, reductions: [{Mean: 3}]}]", r"Mean: field: wanted str, there is 3"),
        ("nodes: [{name: n, reductions: [{Statistics: {field: x, ddof: '1'}}]}]", "ddof: wanted int, there is '1'"),
        (
            "nodes: [{name: n, reductions: [Mean: det, 7]}]",
            r"reductions\[1\]: wanted a reduction, `Name: arguments`; there is 7",
        ),
        ("nodes: [{name: n, reductions: []}]", "at least one reduction"),
        ("nodes: []", "nodes: wanted at least one"),
        ("nodes: [{nme: n, reductions: [{Mean: det}]}]", r"nodes\[0\]: no key 'nme'; did you mean 'name'\?"),
        ("nodes: [{name: 3, reductions: [{Mean: det}]}]", r"nodes\[0\].name: wanted text, there is 3"),
        ("nodes: [{name: n, every: often, reductions: [{Mean: det}]}]", "every is 'often'"),
        ("nodes: [{name: n, when: scan, reductions: [{Mean: det}]}]", r"when: wanted a mapping"),
        ("nodes: [{name: n, reductions: [{Mean: a}]}, {name: n, reductions: [{Mean: b}]}]", "more than one 'n'"),
        (GOOD + "sinks: [{JSONSink: a}]", r"sinks\[0\]: no sink 'JSONSink'; did you mean 'JSONLSink'\?"),
        (GOOD + "sinks: {JSONLSink: a}", "sinks: wanted a list"),
        (GOOD + "source: {CafkaSource: a}", "source: no source 'CafkaSource'"),
        (GOOD + "timeout: soon", "timeout: wanted seconds, there is 'soon'"),
        (GOOD + "snks: []", r"no key 'snks'; did you mean 'sinks'\?"),
        ("- a", "the file: wanted a mapping"),
        ("", "the file: wanted a mapping"),
        ("nodes: [", "line 1: this is not YAML|line 2: this is not YAML"),
        (GOOD + "nodes: []", "the key 'nodes' stands twice"),
        ("a: &a [1]\nnodes: [*a, *a]", r"line 2: YAML aliases"),
        ("nodes: !!python/object/apply:os.system ['true']", "not YAML"),
        ("nodes: [{name: n, reductions: [{'os:system': 'true'}]}]", "does not allow"),
        ("allow: [os]\nnodes: [{name: n, reductions: [{'os:system': 'true'}]}]", "wanted a reduction, a class"),
        ("allow: [builtins]\nnodes: [{name: n, reductions: [{'builtins:eval': '1'}]}]", "wanted a reduction, a class"),
        ("allow: [nopackage]\nnodes: [{name: n, reductions: [{'nopackage.x:Y': '1'}]}]", "cannot import 'nopackage.x'"),
    ],
)
def test_what_is_wrong_is_said_with_file_place_and_the_near_name(tmp_path, text, says):
    path = written(tmp_path, text)

    with pytest.raises(ConfigError, match=says) as error:
        load(path)

    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there_or_too_large_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="at most"):
        load(written(tmp_path, "#" * 1_000_001))


def test_a_reduction_of_ones_own_is_named_by_its_package(tmp_path, monkeypatch):
    (tmp_path / "mybeamline.py").write_text(
        "from pipeline import Reduction\n"
        "class Rocking(Reduction):\n"
        "    def __init__(self, field, width: int = 3):\n"
        "        self.field, self.width, self.n = field, width, 0\n"
        "    def update(self, data):\n"
        "        self.n += data[self.field] > self.width\n"
        "    def result(self):\n"
        "        return {'n': self.n}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = (
        "nodes: [{name: n, reductions: [{'mybeamline:Rocking': {field: det, width: 1}}]}]\nsinks: [{JSONLSink: out}]\n"
    )
    monkeypatch.chdir(tmp_path)

    config = load(written(tmp_path, f"allow: [mybeamline]\n{spec}"))
    config.pipeline().replay(make_run({"det": [1.0, 2.0, 3.0]}))

    assert issubclass(type(config.nodes[0].reductions[0]), Reduction)
    assert config.nodes[0].recipe["reductions"][0]["name"] == "mybeamline:Rocking"
    (path,) = (tmp_path / "out").glob("*.jsonl")
    assert b'"n":2' in path.read_bytes()


def test_500_broken_configurations_end_in_a_word_and_no_traceback(tmp_path):
    """Whatever is cut, doubled, swapped or replaced in a right one: it loads, or says what is wrong."""
    rng = random.Random(1)
    good = (ROOT / "configs" / "peak.yaml").read_text()
    n_refused = 0
    for _ in range(500):
        text = list(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 4)] = rng.choice(
                ["", ":", "- ", "[", "{", "'", "\n", " ", "*a", "&a", "1", "é", "\t"]
            )
        try:
            load(written(tmp_path, "".join(text)))
        except ConfigError:
            n_refused += 1
    assert n_refused > 100


def test_the_yaml_of_every_config_is_what_a_plain_loader_reads():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
