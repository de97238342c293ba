"""What a configuration may say of assets, and what it is told when it says something else."""

import pytest

from pipeline.assets_config import assets_of
from pipeline.config import load
from pipeline.errors import ConfigError, PipelineOSError


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ([], "assets: wanted a mapping"),
        ({"root": {}}, "assets: no key 'root'; did you mean 'roots'?"),
        ({"roots": "/data"}, "assets.roots: wanted list"),
        ({"root_map": {"/data": 1}}, "assets.root_map: wanted dict"),
        ({"timeout": -1}, "assets: timeout is -1.0"),
        ({"timeout": True}, "assets.timeout: wanted float"),
        ({"in_flight": 1}, "in_flight 1; wanted seconds from 0 on, and 2 frames or more"),
        ({"missing": "ignore"}, "assets: missing is 'ignore'; wanted 'fail' or 'skip'"),
        ({"handlers": {"A": "os:system"}}, "which this configuration does not allow"),
        ({"readers": {"a/b": "json"}}, "assets.readers: wanted a function"),
        ({"catalog": ["http://localhost"]}, "assets.catalog: wanted str"),
    ],
)
def test_what_is_wrong_is_told(spec, told):
    with pytest.raises(ConfigError) as error:
        assets_of(spec, ["json"])

    assert told in str(error.value)


def test_a_handler_is_of_a_package_that_is_allowed():
    assets = assets_of({"handlers": {"TEXT": "json:loads"}}, ["json"])

    assert assets.handlers["TEXT"]('"read"') == "read"


CONFIG = """\
source: {source}
nodes:
  - name: n
    reductions: [{{Mean: det}}]
{assets}
"""


@pytest.mark.parametrize(
    ("source", "assets", "is_read"),
    [
        ("{JournalSource: {directory: raw}}", "", True),
        ("{read_jsonl: raw}", "", True),
        ("{ZMQSource: {address: 'localhost:5578'}}", "", False),
        ("{KafkaSource: {topics: [raw]}}", "", False),
        ("{ZMQSource: {address: 'localhost:5578'}}", "assets: {roots: [/data]}", True),
        ("{JournalSource: {directory: raw}}", "assets: {roots: [/mnt]}", False),
    ],
)
def test_who_writes_to_a_network_names_no_file_that_the_configuration_does_not(tmp_path, source, assets, is_read):
    path = tmp_path / "a.yaml"
    path.write_text(CONFIG.format(source=source, assets=assets))

    roots = load(path).assets.roots

    if is_read:
        assert roots.path("file://localhost/data/a.h5") == "/data/a.h5"
    else:
        with pytest.raises(PipelineOSError, match=r"wanted a file in (a folder that `roots` names|one of the folders)"):
            roots.path("file://localhost/data/a.h5")
