"""``packlight config``: what is in effect, and where it came from."""

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import platformdirs
import pytest

from proxy.config import DOCS, Config, example


def test_every_setting_is_printed_with_value_source_and_meaning(
    packlight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block for each, as TOML, after the name of the file."""
    file = tmp_path / "mine.toml"
    file.write_text("port = 1\n", encoding="utf-8")
    monkeypatch.setenv("PACKLIGHT_ALLOWED_HOSTS", "a,b")
    result = packlight.call("config", "--config", str(file))
    assert result.exit_code == 0
    assert result.output.startswith(f"configuration file: {file}\n")
    assert f"\nport = 1  (file {file})\n    Port to listen on; 0 takes a free one.\n" in result.output
    assert '\nallowed_hosts = ["a", "b"]  (environment PACKLIGHT_ALLOWED_HOSTS)\n' in result.output
    assert '\nhost = "127.0.0.1"  (default)\n' in result.output
    assert all(f"\n{name} = " in result.output for name in DOCS)


def test_json_has_the_same(packlight: Any) -> None:
    """Programs get value, default, source and meaning of each setting."""
    shown = orjson.loads(packlight.call("config", "--json").output)
    assert shown["file"].endswith("config.toml")
    assert set(shown["settings"]) == set(DOCS)
    assert shown["settings"]["port"] == {
        "value": Config().port,
        "default": Config().port,
        "source": "default",
        "doc": DOCS["port"],
    }


def test_a_missing_default_file_is_said_to_be_missing(packlight: Any) -> None:
    """The first line says where the file would go."""
    assert "(not there; `packlight config --example` prints" in packlight.call("config").output.splitlines()[0]


def test_the_example_file_is_printed(packlight: Any) -> None:
    """--example prints a file to begin with."""
    assert packlight.call("config", "--example").output == example()


def test_a_bad_configuration_is_exit_2(packlight: Any, tmp_path: Path) -> None:
    """What is wrong is named here too."""
    (tmp_path / "bad.toml").write_text("prot = 1\n", encoding="utf-8")
    result = packlight.call("config", "--config", str(tmp_path / "bad.toml"))
    assert result.exit_code == 2
    assert "did you mean port?" in result.stderr


def test_a_user_without_a_home_is_told_so(packlight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no place for the file then, and all defaults are shown."""

    def homeless(*_name: object, **_options: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_config_path", homeless)
    first, *_ = packlight.call("config").output.splitlines()
    assert first == "configuration file: none, as this user has no home directory (--config names one)"
    assert orjson.loads(packlight.call("config", "--json").output)["file"] is None


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_a_path_that_is_no_text_is_spelled_out(packlight: Any, tmp_path: Path) -> None:
    """A file system takes any bytes for a name, JSON does not."""
    file = tmp_path / os.fsdecode(b"\xff.toml")
    file.write_text("port = 1\n", encoding="utf-8")
    shown = orjson.loads(packlight.call("config", "--json", "--config", str(file)).output)
    assert shown["file"] == f"{tmp_path}/\\udcff.toml"
    assert shown["settings"]["port"]["source"] == f"file {tmp_path}/\\udcff.toml"


def test_what_a_pipe_cannot_encode_is_spelled_out(packlight: Any, tmp_path: Path) -> None:
    """On Windows a pipe has an alphabet or two, and a user's own directory may have a name from another."""
    file = tmp_path / "ł.toml"
    file.write_text('ca_bundle = "中"\n', encoding="utf-8")
    done = packlight.run("config", "--config", str(file), environ={"PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"configuration file: {tmp_path}/\\u0142.toml\n")
    assert f'\nca_bundle = "\\u4e2d"  (file {tmp_path}/\\u0142.toml)\n' in done.stdout


@pytest.mark.parametrize("arguments", [("config",), ("demo", "--turns", "1")])
def test_a_closed_standard_output_is_no_defect(packlight: Any, arguments: tuple[str, ...]) -> None:
    """Whoever closes it wants the exit status alone."""
    process = packlight.unread(*arguments, closed=True)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
