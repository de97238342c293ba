"""An operator sees what a service does, a supervisor whether it lives, and nobody else sees anything."""

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import metrics
from pipeline.errors import ConfigError, PipelineOSError
from pipeline.monitor import MAX_CONNECTIONS, Monitor, probe
from pipeline.monitor_page import PAGE

ROOT = Path(__file__).parents[1]
TOKEN = "0123456789abcdef"
EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"


def a_report():
    now = time.time()
    return {
        "ready": True,
        "why_not_ready": "",
        "time": now,
        "started": now - 93_000,
        "version": "0.1.0",
        "source": {"name": "KafkaSource", "may_lose": False, "lag_seconds": 1.5, "last_document": now - 3},
        "counts": {"documents": 184_223, "runs": 412, "duplicate_events": 3},
        "runs": {"open": 2, "parked": 1, "failed": 1, "held": 37},
        "parked": [{"uid": "7f3c1a52", "reason": f"no event 41 of sample {EVIL}", "since": now - 754}],
        "nodes": {
            "peak": {"begun": 300, "ended": 299, "faults": 1, "events": 120_034, "why": ""},
            "map": {"begun": 0, "ended": 0, "faults": 0, "events": 0, "why": f"no run had plan_name {EVIL}"},
        },
        "sinks": {f"Sink{EVIL}": {"waiting": 12, "dropped": 4, "faults": 0, "outage": "refused \ud800"}},
        "projectors": [
            {"target": "http://t:8000", "behind_bytes": 1830, "runs_level": 310, "refused": 0, "outage": EVIL}
        ],
        "snapshots": {"age_seconds": None, "last_seconds": 0.03, "n_runs": 2},
    }


@contextlib.contextmanager
def hung_up():
    """Let the other side hang up, at whatever point."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
            raise


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("BLUESKY_PIPELINE_TOKEN", raising=False)


@pytest.fixture
def report():
    return a_report()


@pytest.fixture
def monitor(report):
    with Monitor(lambda: report, "127.0.0.1:0") as monitor:
        yield monitor


def ask(monitor, path, method="GET", **headers):
    """Return status, headers and content."""
    address = urlsplit(monitor.url)
    connection = HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


# what it tells --------------------------------------------------------------------------------------------------------


def test_the_status_is_the_report_as_json(monitor, report):
    report["source"]["lag_seconds"] = math.nan

    status, headers, content = ask(monitor, "/status")

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    report["source"]["lag_seconds"] = None
    report["sinks"][f"Sink{EVIL}"]["outage"] = "refused ?"
    assert json.loads(content.decode()) == report


def test_a_service_is_healthy_while_its_main_loop_goes_round(report):
    with Monitor(lambda: report, "127.0.0.1:0", patience=5) as monitor:
        assert ask(monitor, "/healthz")[::2] == (200, b"ok\n")
        report["time"] -= 60
        status, _, content = ask(monitor, "/healthz")

    assert status == 503
    assert re.fullmatch(rb"the main loop has not gone round for 6\d s; wanted at most 5 s\n", content)


def test_a_service_that_is_not_ready_says_why(monitor, report):
    assert ask(monitor, "/readyz")[::2] == (200, b"ok\n")

    report.update(ready=False, why_not_ready="the ledger is on a full disk \ud800")

    assert ask(monitor, "/readyz")[::2] == (503, b"the ledger is on a full disk ?\n")
    assert ask(monitor, "/healthz")[0] == 200


def test_a_report_that_fails_is_a_service_that_is_not_well(caplog):
    with Monitor(lambda: 1 / 0, "127.0.0.1:0") as monitor:
        for path in ("/healthz", "/readyz", "/status", "/metrics"):
            status, _, content = ask(monitor, path)
            assert (status, content) == (503, b"the service cannot tell how it is: ZeroDivisionError\n")
        assert ask(monitor, "/")[0] == 200


def exported(monitor):
    content = ask(monitor, "/metrics")[2].decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(content)
        for sample in family.samples
    }


def test_the_metrics_are_the_report_for_prometheus(monitor):
    samples = exported(monitor)

    assert samples["bluesky_pipeline_ready",] == 1
    assert samples["bluesky_pipeline_documents_total",] == 184_223
    assert samples["bluesky_pipeline_seen_total", "duplicate_events"] == 3
    assert samples["bluesky_pipeline_lag_seconds",] == 1.5
    assert samples["bluesky_pipeline_runs", "parked"] == 1
    assert samples["bluesky_pipeline_node_faults_total", "peak"] == 1
    assert (samples["bluesky_pipeline_node_silent", "peak"], samples["bluesky_pipeline_node_silent", "map"]) == (0, 1)
    assert samples["bluesky_pipeline_sink_outage", f"Sink{EVIL}"] == 1
    assert samples["bluesky_pipeline_projector_behind_bytes", "http://t:8000"] == 1830
    assert math.isnan(samples["bluesky_pipeline_snapshot_age_seconds",])
    assert 0 <= samples["bluesky_pipeline_loop_age_seconds",] < 60


def test_the_table_of_metrics_is_what_is_exported(monitor):
    told = set(re.findall(r"^\| `(bluesky_pipeline_\w+)`", metrics.__doc__, re.M))

    assert told == {name for name, *_ in exported(monitor)}


def test_the_grafana_dashboard_names_metrics_that_are_exported(monitor):
    dashboard = json.loads((ROOT / "configs" / "grafana.json").read_text())

    panels = dashboard["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    named = set(re.findall(r"bluesky_pipeline_\w+", " ".join(queries)))
    assert named == {name for name, *_ in exported(monitor)}
    assert len(queries) >= len(panels)
    assert dashboard["schemaVersion"] >= 38
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    for query in queries:
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")


# who may see it -------------------------------------------------------------------------------------------------------


def test_a_token_is_wanted_of_every_request_but_the_page_that_asks_for_it(report, caplog):
    caplog.set_level(logging.DEBUG)
    with Monitor(lambda: report, "127.0.0.1:0", TOKEN) as monitor:
        for path in ("/status", "/metrics", "/healthz", "/readyz", "/nope"):
            status, headers, content = ask(monitor, path)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
            assert b"7f3c1a52" not in content
        for given in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "", "Bearer \xe9"):
            assert ask(monitor, "/status", Authorization=given)[0] == 401
        assert ask(monitor, f"/status?token={TOKEN}")[0] == 401
        assert ask(monitor, "/")[::2] == (200, PAGE)
        assert ask(monitor, "/status", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(monitor, "/status", Authorization=f"bearer {TOKEN}", Host="beamline.example")[0] == 200

    assert TOKEN not in caplog.text


def test_the_token_is_taken_from_the_environment(report, monkeypatch):
    monkeypatch.setenv("BLUESKY_PIPELINE_TOKEN", TOKEN)

    with Monitor(lambda: report, "0.0.0.0:0") as monitor:
        port = urlsplit(monitor.url).port
        assert probe(f"http://127.0.0.1:{port}/healthz") == ""
        monkeypatch.setenv("BLUESKY_PIPELINE_TOKEN", TOKEN + "x")
        assert "wanted the token" in probe(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0", "8090", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"])
def test_another_address_without_a_token_or_none_at_all_is_refused(report, listen):
    with pytest.raises(ConfigError, match="wanted"):
        Monitor(lambda: report, listen)


@pytest.mark.parametrize("token", ["short", "é" * 20, "a b\n" * 10])
def test_a_token_that_is_none_is_refused_and_not_repeated(report, token):
    with pytest.raises(ConfigError, match="wanted at least 16") as error:
        Monitor(lambda: report, "127.0.0.1:0", token)
    assert token not in str(error.value)


def test_an_address_that_is_taken_is_an_error_that_says_so(report, monitor):
    with pytest.raises(PipelineOSError, match=r"listen on 127\.0\.0\.1:\d+: Address already in use"):
        Monitor(lambda: report, monitor.url.removeprefix("http://"))


def test_ipv6_and_names_of_loopback_do(report):
    with Monitor(lambda: report, "localhost:0") as monitor:
        assert ask(monitor, "/healthz")[0] == 200
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text():
        with Monitor(lambda: report, "[::1]:0") as monitor:
            assert monitor.url.startswith("http://[::1]:")
            assert ask(monitor, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "a@b"]
)
def test_without_a_token_a_page_from_elsewhere_cannot_have_it_read_by_another_name(monitor, host):
    for path in ("/status", "/"):
        assert ask(monitor, path, Host=host)[0] == 403
    assert ask(monitor, "/status", Host="localhost:1")[0] == ask(monitor, "/status", Host="[::1]:1")[0] == 200


# what it does with requests ---------------------------------------------------------------------------------------


def test_every_answer_keeps_browsers_from_doing_more_with_it_than_is_meant(monitor):
    for path in ("/", "/status", "/metrics", "/healthz", "/nope"):
        _, headers, _ = ask(monitor, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'; script-src 'sha256-" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"].strip() == "bluesky-pipeline"


def test_the_page_needs_nothing_from_elsewhere():
    assert not re.search(rb"(src|href)=.?https?:|//cdn|@import|url\(", PAGE)
    assert b"innerHTML" not in PAGE


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_but_get_and_head_is_answered(monitor, method):
    status, headers, content = ask(monitor, "/status", method)

    assert status == (501 if method == "BREW" else 405)
    assert content == (b"wanted GET or HEAD\n" if status == 405 else b"wanted GET or HEAD, and a path\n")
    assert "default-src" in headers["Content-Security-Policy"]


def test_head_is_answered_without_content(monitor):
    status, headers, content = ask(monitor, "/", "HEAD")

    assert (status, content) == (200, b"")
    assert int(headers["Content-Length"]) == len(PAGE)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"a" * 60_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 10_000 + b"\r\n",
        b"\r\n" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\n\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.0\r\n\r\n",
        b"GET \xff\xfe HTTP/1.0\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_no_request_or_too_large_is_let_go_and_the_next_one_is_answered(monitor, request_, capfd):
    address = urlsplit(monitor.url)
    peer = address.hostname, address.port
    with socket.create_connection(peer, timeout=10) as client, hung_up():
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    assert ask(monitor, "/healthz")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_connections_that_send_nothing_are_few_and_end(report, monkeypatch):
    monkeypatch.setattr("pipeline.monitor.MAX_SECONDS", 1.0)
    with Monitor(lambda: report, "127.0.0.1:0") as monitor:
        address = urlsplit(monitor.url)
        before = threading.active_count()
        clients = [socket.create_connection((address.hostname, address.port)) for _ in range(MAX_CONNECTIONS + 20)]
        for client in clients:
            client.settimeout(8)
        most = 0
        for _ in range(5):
            time.sleep(0.1)
            most = max(most, threading.active_count() - before)
        for client in clients[:MAX_CONNECTIONS]:
            client.send(b"G")
        ended = sum(_ended(client) for client in clients)
        for client in clients:
            client.close()

        assert most <= MAX_CONNECTIONS
        assert ended == len(clients)
        assert ask(monitor, "/healthz")[0] == 200


def _ended(client):
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True


def test_a_monitor_that_is_closed_leaves_no_thread_and_no_port(report):
    monitor = Monitor(lambda: report, "127.0.0.1:0")
    ask(monitor, "/")

    monitor.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "monitor"]
    assert "does not answer" in probe(f"{monitor.url}/healthz")


# the page, in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    """A function that gives the page at a URL as it stands in a browser after a while."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser: Debian's package chromium is not installed")
    options = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad", "--no-first-run"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # it refuses to run as root with one

    def dom(url):
        command = [found, *options, f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.stdout.strip(), f"the browser ended with {done.returncode}: {done.stderr[-1000:]}"
        return done.stdout

    return dom


def test_the_page_shows_runs_nodes_sinks_and_catalogs_and_what_documents_say_stays_text(monitor, browser):
    page = browser(monitor.url)

    escaped = EVIL.replace("<", "&lt;").replace(">", "&gt;")
    assert "<title>Ready, with an outage" in page
    assert f'<td class="why "><div>no event 41 of sample {escaped}</div>' in page
    assert '<td class="uid ">7f3c1a52</td>' in page
    assert f"no run had plan_name {escaped}" in page
    assert f"Sink{escaped}</td>" in page
    assert f"<div>{escaped}</div>" in page
    assert "<strong>184,223</strong>" in page
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<title>pwned" not in page


def test_the_page_says_why_a_service_is_not_ready(monitor, report, browser):
    report.update(ready=False, why_not_ready=f"the ledger {EVIL}")

    page = browser(monitor.url)

    assert "<b>Not ready</b><span>the ledger &lt;script&gt;" in page


def test_the_page_asks_for_the_token_and_shows_nothing_before(report, browser):
    with Monitor(lambda: report, "127.0.0.1:0", TOKEN) as monitor:
        page = browser(monitor.url)

    assert "<b>A token is wanted</b>" in page
    assert '<form id="token">' in page
    assert "7f3c1a52" not in page


# the files beside it --------------------------------------------------------------------------------------------------


def test_the_unit_of_systemd_is_right_and_hardened(tmp_path):
    text = (ROOT / "configs" / "bluesky-pipeline.service").read_text()
    for line in (
        "User=bluesky-pipeline",
        "ProtectSystem=strict",
        "ReadWritePaths=/var/lib/bluesky-pipeline",
        "NoNewPrivileges=yes",
        "Restart=on-failure",
        "ExecReload=kill -HUP $MAINPID",
        "EnvironmentFile=-/etc/bluesky-pipeline/keys",
    ):
        assert f"\n{line}\n" in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit was not verified")
    unit = tmp_path / "bluesky-pipeline.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M))

    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_container_is_not_root_and_its_health_check_asks_the_monitor(monitor, report):
    text = (ROOT / "configs" / "Containerfile").read_text()
    command = json.loads(re.search(r"HEALTHCHECK.*?CMD (\[.*?\])", text, re.S).group(1))
    command = [sys.executable, *command[1:-1], command[-1].replace("http://127.0.0.1:8090", monitor.url)]

    well = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    report["time"] -= 100
    unwell = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert re.search(r"^USER [1-9]\d+$", text, re.M)
    assert (well.returncode, well.stderr) == (0, "")
    assert unwell.returncode == 1
    assert "the main loop has not gone round" in unwell.stderr
