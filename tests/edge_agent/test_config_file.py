from __future__ import annotations

from pathlib import Path

import pytest

from bundle.errors import ConfigError
from edge_agent.config_file import load_config
from edge_agent.masking import shown_source

_GOOD = """
[robot]
site = "wh1"
id = "r1"
[bundle]
path = "bundle"
[[cameras]]
source = "photos"
[state]
path = "/var/lib/bintally"
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_load_config_paths_count_from_the_file(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, _GOOD)).config
    assert config.bundle.path == tmp_path / "bundle"
    assert config.cameras[0].source == str(tmp_path / "photos")
    assert config.state.path == Path("/var/lib/bintally")


@pytest.mark.parametrize("source", ["0", '"rtsp://10.0.0.7/stream"', '"/dev/video0"'])
def test_load_config_cameras_and_urls_are_no_paths(tmp_path: Path, source: str) -> None:
    config = load_config(_write(tmp_path, _GOOD.replace('"photos"', source))).config
    assert str(config.cameras[0].source) == source.strip('"')


@pytest.mark.parametrize(
    ("line", "where", "words"),
    [
        ("[mqtt]\nprot = 1884", "mqtt.prot", "Did you mean port?"),
        ("[mqtt]\nport = 70000", "mqtt.port", "65535"),
        ('[mqtt]\nport = "a"', "mqtt.port", "'a'"),
        ("[telemetry]\ninterval_s = 0", "telemetry.interval_s", "0.2"),
        ("[nonsense]\nx = 1", "nonsense", "robot"),
        ("[uploads]\nquota.images_per_hou = 1", "uploads.quota.images_per_hou", "images_per_hour"),
        ('[mqtt.tls]\ncert_file = "c.pem"', "mqtt.tls", "belong together"),
        ('[uploads]\nfolder = "u"\n[s3]\nbucket = "bbb"', "the file", "not to both"),
        ('[s3]\nbucket = "b b"', "s3.bucket", "b b"),
        ('[s3]\nbucket = "bbb"\nendpoint_url = "ftp://x"', "s3.endpoint_url", "ftp"),
    ],
)
def test_load_config_wrong_key_names_file_key_value_and_fix(tmp_path: Path, line: str, where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, _GOOD + line))
    assert "agent.toml" in str(caught.value)
    assert where in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.exit_code == 78


def test_load_config_unknown_camera_key_is_named_with_its_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cameras\[0\]\.visit\.frame is not a known key.*Did you mean frames\?"):
        load_config(_write(tmp_path, _GOOD.replace('"photos"', '"photos"\nvisit.frame = 3')))


def test_load_config_bin_id_template_checks_its_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown field \{bin\}, known are stem, camera, visit"):
        load_config(_write(tmp_path, _GOOD.replace('"photos"', '"photos"\nbin_id = "{bin}"')))


def test_load_config_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"robot\.id is missing"):
        load_config(_write(tmp_path, _GOOD.replace('id = "r1"', "")))


def test_load_config_same_camera_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="camera names must differ"):
        load_config(_write(tmp_path, _GOOD + '[[cameras]]\nsource = "other"\n'))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:s3cret@host:554/x", "rtsp://***@host:554/x"),
        ("rtsp://user:s3@cret@host/x", "rtsp://***@host/x"),
        ("rtsp://user:s3/cret@host/x", "rtsp://***@host/x"),
        ("http://host/x", "http://host/x"),
        ("http://host/x.jpg?usr=a&pwd=s3 cret", "http://host/x.jpg?***"),
        ("camera http://host/x?t=s3cret is away", "camera http://host/x?*** is away"),
        ("rtsp://host/user=admin_password=s3cret&channel=1", "rtsp://host/user=***&channel=1"),
        (
            "gst://rtspsrc location=rtsp://host/x user-pw=s3cret ! appsink",
            "gst://rtspsrc location=rtsp://host/x user-pw=*** ! appsink",
        ),
        (
            "gst://rtspsrc location=rtsp://host/x?k=s3cret ! appsink",
            "gst://rtspsrc location=rtsp://host/x?*** ! appsink",
        ),
        ("/srv/photos@home", "/srv/photos@home"),
        (0, "0"),
    ],
)
def test_shown_source_hides_secrets_alone(source: int | str, shown: str) -> None:
    assert shown_source(source) == shown


def test_load_config_error_does_not_quote_a_camera_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\*\*\*@host") as caught:
        load_config(_write(tmp_path, _GOOD.replace('"photos"', '["rtsp://u:s3cret@host/x"]')))
    assert "s3cret" not in str(caught.value)


def test_load_config_broken_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load_config(_write(tmp_path, "[robot]\nsite = \n"))


def test_load_config_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*--config"):
        load_config(tmp_path / "none.toml")


def test_load_config_secret_comes_from_the_credentials_directory(tmp_path: Path) -> None:
    secrets = tmp_path / "credentials"
    secrets.mkdir()
    (secrets / "mqtt-password").write_text("x", encoding="utf-8")
    file = _write(tmp_path, _GOOD + '[mqtt]\nusername = "r1"\npassword_file = "mqtt-password"\n')
    assert load_config(file, {"CREDENTIALS_DIRECTORY": str(secrets)}).config.mqtt.password_file == (
        secrets / "mqtt-password"
    )
    assert load_config(file, {}).config.mqtt.password_file == tmp_path / "mqtt-password"


def test_load_config_secret_in_a_closed_folder_is_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    file = _write(
        tmp_path, _GOOD + '[mqtt]\nusername = "r1"\npassword_file = "/etc/bintally/credentials/mqtt-password"\n'
    )
    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(ConfigError, match=r"password_file .*Permission denied.*without its folder"):
        load_config(file, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_load_config_settings_tell_value_and_origin(tmp_path: Path) -> None:
    settings = {s.key: (s.value, s.origin) for s in load_config(_write(tmp_path, _GOOD)).settings}
    assert settings["robot.site"] == ("wh1", "file")
    assert settings["mqtt.port"] == (1883, "default")
    assert settings["cameras[0].visit.frames"] == (3, "default")
    assert settings["cameras[0].source"] == (str(tmp_path / "photos"), "file")


def test_load_config_example_file_is_valid(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "deploy" / "agent.example.toml"
    file = tmp_path / "agent.toml"
    file.write_bytes(example.read_bytes())
    assert load_config(file).config.robot.id


@pytest.mark.parametrize(
    ("section", "port"),
    [("", 1883), ("[mqtt.tls]\n", 8883), ("[mqtt]\nport = 1884\n[mqtt.tls]\n", 1884), ("[mqtt]\n", 1883)],
)
def test_load_config_port_follows_encryption_unless_it_is_given(tmp_path: Path, section: str, port: int) -> None:
    assert load_config(_write(tmp_path, _GOOD + section)).config.mqtt.port == port
