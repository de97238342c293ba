"""A configuration that is written to harm, or by a careless hand: it loads, or is refused in a word; nothing is run."""

import contextlib
import importlib
import os
import random
import re
import resource
import sys
import time
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.plain_yaml import MAX_DEPTH, MAX_NODES

N_CASES = 250
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
GOOD = "nodes: [{name: n, reductions: [{Mean: det}]}]\n"


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "timeout: " + "9" * 5000, r"timeout: wanted a plain number, .* there is '9999.*\(line 2\)"),
        (GOOD + "timeout: 9223372036854775808", r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: 1" + ":59" * 100_000, r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: 0b" + "1" * 100_000, r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: 0123", r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: .inf", r"timeout: wanted a plain number, .* there is '\.inf'.*\(line 2\)"),
        (GOOD + "timeout: -.Inf", r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: .nan", r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: 1.0e+999", r"timeout: wanted a plain number.*\(line 2\)"),
        (GOOD + "timeout: -1", r"timeout: wanted seconds, there is -1.*\(line 2\)"),
        (GOOD + "timeout: yes", r"timeout: wanted seconds, there is True.*\(line 2\)"),
        (GOOD + "timeout: 2026-01-01", r"timeout: YAML takes '2026-01-01' for a date.*\(line 2\)"),
        (GOOD + "timeout: =", r"timeout: YAML takes '=' for something else.*\(line 2\)"),
        ("nodes:\n- <<: {name: n}", r"nodes\[0\]: merge keys \('<<'\) are not read.*\(line 2\)"),
        (
            "nodes:\n- name: n\n  when: {on: 1}",
            r"nodes\[0\].when: wanted a key that is text, there is True.*\(line 3\)",
        ),
        ("nodes:\n- ? [a]\n  : b", r"nodes\[0\]: wanted a key that is text, there is a list or a mapping.*\(line 2\)"),
        ("nodes:\n- ? " + "a" * 5000 + "\n  : b", r"nodes\[0\]: wanted keys of at most 200 characters.*\(line 2\)"),
        ("nodes:\n- name: n\n  name: m", r"nodes\[0\]: the key 'name' stands twice.*\(line 3\)"),
        ("a: !!python/object/apply:os.system ['true']", "line 1: .*tags .* are not read"),
        ("a: !!python/name:os.system", "line 1: .*tags .* are not read"),
        ("a: !!python/object/new:os.system [x]", "line 1: .*tags .* are not read"),
        ("a:\n- !!binary aGk=", "line 2: .*tags .* are not read"),
        ("a: !!set {b}", "line 1: .*tags .* are not read"),
        ("a: ! b", "line 1: .*tags .* are not read"),
        ("a: !!int b", "line 1: .*tags .* are not read"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system", "line 3: .*tags .* are not read"),
        ("a: &a [1]\nb: *a", "line 2: YAML aliases"),
        ("a: &a [*a]", "line 1: YAML aliases"),
        ("a: 1\n---\nb: 2", "line 2: this is not YAML"),
        ("a: b\n\0", r"line 2: wanted text, there is the character '\\x00'"),
        ('a: "b\\0"', r"a: wanted text, there is the character '\\x00'.*\(line 1\)"),
        ('a: "\\ud800"', r"a: wanted text, there is the character '\\ud800'.*\(line 1\)"),
        ('a: "\\UFFFFFFFF"', "line 1: this is not YAML"),
        ("a: \x1b[2J", r"line 1: wanted text, there is the character '\\x1b'"),
        (b"\xef\xbb\xbf" + GOOD.encode(), r"line 1: wanted text, there is the character '\\ufeff'"),
        (GOOD.encode("utf-16"), "cannot be read: 'utf-8' codec"),
        (b"a: \xff", "cannot be read: 'utf-8' codec"),
        ("[" * 100_000, f"line 1: wanted at most {MAX_DEPTH} levels"),
        ("a: " + "{b: " * 1000, f"line 1: wanted at most {MAX_DEPTH} levels"),
        ("- " * 400, f"line 1: wanted at most {MAX_DEPTH} levels"),
        ("- a\n" * 240_000, f"line {MAX_NODES}: wanted at most {MAX_NODES} keys and values"),
        ("nodes: [{name: n, stream: 3, reductions: [{Mean: det}]}]", r"nodes\[0\].stream: wanted the name of a stream"),
        ("nodes: [{name: n, every: true, reductions: [{Mean: a}]}]", r"nodes\[0\].every: wanted a number of events"),
        ("nodes: [{name: n, every: -1, reductions: [{Mean: det}]}]", r"nodes\[0\]: .*every is -1"),
        ("nodes: [{name: ' ', reductions: [{Mean: det}]}]", r"nodes\[0\].name: wanted text"),
        ("nodes: [{name: n, over: {count: two}, reductions: [{Mean: det}]}]", r"nodes\[0\].over: "),
        (
            "nodes:\n- name: n\n  reductions:\n  - Mean: det\n  - Maen: det",
            r"nodes\[0\].reductions\[1\]: no red.*\(line 5\)",
        ),
        ("allow: [{}]", r"allow: wanted a list.*\(line 1\)"),
        ("allow: ['']\nnodes: [{name: n, reductions: [{':x': 1}]}]", r"reductions\[0\]: cannot import ''"),
        ("allow: ['']\nnodes: [{name: n, reductions: [{'.os:x': 1}]}]", r"reductions\[0\]: cannot import '.os'"),
        (
            "allow: [builtins]\n" + GOOD + "sinks: [{'builtins:dict': 1}]",
            r"sinks\[0\]: .*wanted a class in Python.*\(line 3\)",
        ),
        (
            GOOD + "sinks: [JSONLSink: " + "[" * 20 + "]" * 20 + "]",
            r"sinks\[0\]: JSONLSink: directory: wanted.*\(line 2\)",
        ),
        (GOOD + "sinks: [JSONLSink: [" + "a, " * 3000 + "]]", r"sinks\[0\]: JSONLSink.*: too many positional"),
        (GOOD + "s" * 5000 + ": 1", "line 2: wanted keys of at most 200|line 2: this is not YAML"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_yaml_can_do_and_data_cannot_is_refused_with_file_and_place(tmp_path, text, says):
    path = written(tmp_path, text)
    began = time.monotonic()

    with pytest.raises(ConfigError) as error:
        load(path)

    assert time.monotonic() - began < 3
    assert str(error.value).startswith(f"{path}: ")
    assert re.search(says, str(error.value))
    assert len(str(error.value)) < 1500
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_path_that_is_none_is_said():
    with pytest.raises(ConfigError, match="cannot be read"):
        load("a\0b")
    with pytest.raises(ConfigError, match="cannot be read"):
        load("/")
    with pytest.raises(ConfigError, match="at most 1000000 bytes"):
        load("/dev/zero")


def test_what_a_class_of_ones_own_raises_is_said_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "badly.py").write_text(
        "from pipeline import Reduction\n"
        "class Divides(Reduction):\n"
        "    def __init__(self, field: 'Nowhere' = 1):\n"
        "        1 / 0\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)

    for name, says in (("badly:Divides", "ZeroDivisionError"), ("leaves:X", "cannot import 'leaves': SystemExit: 3")):
        package = name.partition(":")[0]
        with pytest.raises(ConfigError, match=rf"nodes\[0\].reductions\[0\]: .*{says}.*\(line 2\)"):
            load(written(tmp_path, f"allow: [{package}]\nnodes: [{{name: n, reductions: ['{name}']}}]"))


# what installed distributions add -----------------------------------------------------------------------------------


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a distribution of this name with these entry points and modules."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def install(name, points, **modules):
        info = folder / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(points)
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        importlib.invalidate_caches()

    yield install
    for module in [each for each in sys.modules if each.startswith("ep_")]:
        del sys.modules[module]


def test_an_installed_distribution_adds_names_to_the_shelves_and_is_imported_only_when_named(tmp_path, distribution):
    distribution(
        "ep-good",
        "[bluesky_pipeline.reductions]\nRocking = ep_r:Rocking\n"
        "[bluesky_pipeline.sinks]\nMailSink = ep_s:MailSink\n"
        "[bluesky_pipeline.sources]\ntail = ep_s:tail\n",
        ep_r="from pipeline import Reduction\nclass Rocking(Reduction):\n    def __init__(self, field: str):\n"
        "        self.field = field\n",
        ep_s="class MailSink:\n    def __init__(self, to: str):\n        self.to = to\n"
        "    def __call__(self, name, doc):\n        pass\n"
        "def tail(path: str, *more: int, **options: str):\n    return path, more, options\n",
    )

    load(written(tmp_path, GOOD))
    assert not {"ep_r", "ep_s"} & set(sys.modules)

    config = load(
        written(
            tmp_path,
            "nodes: [{name: n, reductions: [Rocking: det]}]\nsinks: [MailSink: {to: me}]\nsource: {tail: [a, 1, 2]}",
        )
    )
    assert config.nodes[0].reductions[0].field == "det"
    assert config.sinks[0]().to == "me"
    assert config.source() == ("a", (1, 2), {})


@pytest.mark.parametrize(
    ("points", "text", "says"),
    [
        (
            "X = ep_none:X",
            GOOD + "sinks: [X]",
            r"sinks\[0\]: the sink 'X' \(ep_none:X, of ep-bad\) cannot be.*\(line 2\)",
        ),
        ("X = ep_bad:X", GOOD + "sinks: [X]", r"cannot be imported: ZeroDivisionError"),
        ("Xylo = ep_ok:Y\nJSONLSink = ep_ok:Y", GOOD + "sinks: [Xilo]", "no sink 'Xilo'; did you mean 'Xylo'"),
        ("X = ep_ok:Y\n", GOOD + "sinks: [X: {nope: 1}]", r"sinks\[0\]: X has no 'nope'"),
        ("X = ep_ok:N\n", GOOD + "sinks: [X]", r"sinks\[0\]: wanted a sink, a class; X is 3"),
    ],
)
def test_a_broken_addition_is_an_error_with_its_name(tmp_path, distribution, points, text, says):
    distribution(
        "ep-bad",
        f"[bluesky_pipeline.sinks]\n{points}\n",
        ep_bad="1 / 0",
        ep_ok="class Y:\n    def __init__(self, a=1):\n        pass\nN = 3\n",
    )

    with pytest.raises(ConfigError, match=says):
        load(written(tmp_path, text))
    assert load(written(tmp_path, GOOD + "sinks: [JSONLSink: a]")).ledger == "a"


def test_one_name_of_two_distributions_is_an_error_that_names_both(tmp_path, distribution):
    distribution("ep-one", "[bluesky_pipeline.sinks]\nX = ep_x:X\n")
    distribution("ep-two", "[bluesky_pipeline.sinks]\nX = ep_y:X\n")

    with pytest.raises(ConfigError, match=r"a sink 'X': ep-one \(ep_x:X\) and ep-two \(ep_y:X\)"):
        load(written(tmp_path, GOOD + "sinks: [X]"))


# fuzz ----------------------------------------------------------------------------------------------------------------

VALUES = [
    "null", "~", "true", "off", "-1", "0", "1e3", "1.5", "9223372036854775807", "99999999999999999999", "0x10",
    "0o7", "010", ".inf", "-.inf", ".nan", "1:30", "2026-01-01", "2026-01-01T00:00:00Z", "=", "<<", "''", '"\\0"',
    '"\\ud800"', "[]", "{}", "[[]]", "[1, a]", "{a: 1}", "{1: 2}", "{<<: {a: 1}}", "|", ">", "&a b", "*a", "? a",
    "!!python/object/apply:os.system ['true']", "!!python/name:canary_module.boom", "!!python/module:canary_module",
    "!!binary aGk=", "!!set {a}", "!!float 1", "! a", "os:system", "subprocess:Popen", "builtins:eval",
    "{'os:system': 'true'}", "canary_other:Boom", "{'canary_other:Boom': 1}", "../../etc/passwd", "__import__('os')",
    "Mean", "{Mean: det}", "{Fit: {x: a, y: b, model: '__import__(1)*x'}}", "é", "😀", "a" * 300, "'" * 3,
]  # fmt: skip
PIECES = [b"", b":", b"- ", b"[", b"{", b"}", b"]", b"'", b'"', b"\n", b" ", b"*a", b"&a", b"!", b"%", b"@", b"`", b"|"]
PIECES += [b"\0", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\r", b"\t", b"\x85", b"\xe2\x80\xa8", b"<<: ", b"? ", b"---\n"]


def by_bytes(rng, text):
    data = bytearray(text)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 4)] = rng.choice([*PIECES, bytes([rng.randrange(256)])])
    return bytes(data)


def by_lines(rng, text):
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        change = rng.randrange(4)
        if change == 0:
            lines[i], lines[j] = lines[j], lines[i]
        elif change == 1:
            lines.insert(j, lines[i])
        elif change == 2 and len(lines) > 2:
            del lines[i]
        else:
            lines[i] = b" " * rng.randint(0, 8) + lines[i].lstrip()
    return b"".join(lines)


def by_tokens(rng, text):
    tokens = re.split(rb"([\w./]+)", re.sub(rb" *#.*", b"", text))
    words = [i for i, token in enumerate(tokens) if token.strip()]
    for _ in range(rng.randint(1, 4)):
        i, j = rng.choice(words), rng.choice(words)
        tokens[i] = tokens[j] if rng.random() < 0.7 else tokens[i] + tokens[j]
    return b"".join(tokens)


def by_values(rng, text):
    lines = re.sub(rb" *#.*", b"", text).splitlines()
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(lines))
        key, colon, _ = lines[i].partition(b": ")
        lines[i] = (key + colon if colon else b"  - ") + rng.choice(VALUES).encode()
    return b"\n".join(lines)


DEEDS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "os.mkdir")
told: list | None = None  # what is done, while someone watches


def _hook(event, args):
    if told is None:
        return
    written_to = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if event in DEEDS or written_to or (event == "import" and str(args[0]).startswith("canary")):
        told.append((event, args))


@pytest.fixture(scope="module")
def watch():
    """A context in which what is run, connected, made or imported, and should not be, is told to a list."""
    sys.addaudithook(_hook)  # it cannot be taken away again

    @contextlib.contextmanager
    def watching(deeds):
        global told
        told = deeds
        try:
            yield
        finally:
            told = None

    return watching


@pytest.fixture
def little_memory():
    """So that what asks for too much is refused it, not given it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("mutate", [by_bytes, by_lines, by_tokens, by_values])
def test_a_mutated_configuration_loads_or_is_a_configerror_and_runs_nothing(
    tmp_path, monkeypatch, watch, little_memory, mutate
):
    for name in ("canary_module", "canary_other"):
        (tmp_path / f"{name}.py").write_text("class Boom: pass\ndef boom(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS[0].parent)  # some refer to files there
    monkeypatch.chdir(tmp_path)
    rng = random.Random(mutate.__name__)
    path = tmp_path / "c.yaml"
    for each in CONFIGS:
        load(each)
    deeds, said = [], []

    for _ in range(N_CASES):
        path.write_bytes(b"allow: [canary_module]\n" + mutate(rng, rng.choice(CONFIGS).read_bytes()))
        with watch(deeds):
            said.append(_said(path))

    assert deeds == []
    assert not {"canary_module", "canary_other"} & set(sys.modules)
    assert all(each.startswith(f"{path}: ") and len(each) < 3000 for each in said if each)
    assert sum(map(bool, said)) > N_CASES / 5


def _said(path):
    """Return what is said of a configuration, if it is refused."""
    try:
        load(path)
    except ConfigError as error:
        return str(error)
    return ""


def test_the_watch_of_these_tests_sees_what_is_run(watch, tmp_path):
    deeds = []

    with watch(deeds):
        os.system("true")
        (tmp_path / "made").mkdir()

    assert [event for event, _ in deeds] == ["os.system", "os.mkdir"]


@pytest.mark.parametrize(
    "model", ["__import__('os').system('true')*x", "a*x.__class__", "open('c','w')*x", "[1]*10**9*x", "(lambda: x)()"]
)
def test_arithmetic_in_a_configuration_is_no_program(tmp_path, watch, model):
    pytest.importorskip("lmfit.models")
    path, deeds = written(tmp_path, f'nodes:\n- name: n\n  reductions:\n  - Fit: [m, d, "{model}"]\n'), []

    with watch(deeds):
        said = _said(path)

    assert re.search(r"nodes\[0\].reductions\[0\]: Fit of .*(wanted arithmetic|calls).*\(line 4\)", said)
    assert deeds == []


@pytest.mark.parametrize("model", ["a*9**9**9**9*x", "a*x**999999999", "a*" * 200 + "x"])
def test_a_tower_of_powers_is_not_climbed(tmp_path, model):
    pytest.importorskip("lmfit.models")
    path = written(
        tmp_path, f"nodes: [{{name: n, reductions: [Fit: {{x: m, y: d, model: {model}, start: {{a: 1}}}}]}}]"
    )
    began = time.monotonic()

    config = load(path)

    assert config.nodes[0].reductions[0].name == "Fit"
    assert time.monotonic() - began < 5


def test_a_configuration_is_loaded_in_no_time():
    load(CONFIGS[0])
    began = time.perf_counter()

    for path in CONFIGS:
        load(path)

    assert (time.perf_counter() - began) / len(CONFIGS) < 0.1
