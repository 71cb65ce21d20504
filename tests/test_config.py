"""Configuration: what may be set, where, and what is said when it is wrong."""

import codecs
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from proxy.config import DEFAULTS, DOCS, Config, Loaded, default_file, example, is_loopback, load, toml
from proxy.errors import BadConfiguration

ROOT = Path(__file__).parents[1]
HOSTS = 'must be host names alone, such as "host.docker.internal", without a port or a *'
ORIGINS = 'must be origins such as "https://example.org", without a path or a *'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a configuration file that is empty so far."""
    path = tmp_path / "config.toml"
    path.touch()
    return path


def loaded(file: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Loaded:
    """Load *text* as the *file*, with *environ* and *flags*."""
    file.write_text(text, encoding="utf-8")
    return load(file=file, environ=environ or {}, flags=flags)


def refusal(file: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> str:
    """Return the message with which these settings are refused."""
    with pytest.raises(BadConfiguration) as caught:
        loaded(file, text, environ, **flags)
    return str(caught.value)


def test_without_anything_every_setting_is_its_default(file: Path) -> None:
    """An empty file changes nothing, and every source says default."""
    result = loaded(file)
    assert result.config == Config()
    assert result.sources == dict.fromkeys(DOCS, "default")


def test_flags_beat_environment_beats_file(file: Path) -> None:
    """The later source wins, and the sources say which it was."""
    text = "port = 1\nmax_connections = 2\nidle_seconds = 3\n"
    environ = {"PACKLIGHT_PORT": "4", "PACKLIGHT_MAX_CONNECTIONS": "5", "OTHER": "6"}
    result = loaded(file, text, environ, port=7, upstream=None)
    assert (result.config.port, result.config.max_connections, result.config.idle_seconds) == (7, 5, 3.0)
    assert result.sources["port"] == "flag --port"
    assert result.sources["max_connections"] == "environment PACKLIGHT_MAX_CONNECTIONS"
    assert result.sources["idle_seconds"] == f"file {file}"
    assert result.sources["upstream"] == "default"


def test_the_platforms_file_is_read_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a named file, the one in the platform's configuration directory counts, and may be missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = default_file()
    if path is None or not path.is_relative_to(tmp_path):
        pytest.skip("this platform keeps its configuration elsewhere")
    assert load(file=None, environ={}, flags={}).config == Config()
    path.parent.mkdir(parents=True)
    path.write_text("port = 9\n", encoding="utf-8")
    assert load(file=None, environ={}, flags={}).config.port == 9


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was asked for and is missing is an error that names it."""
    with pytest.raises(BadConfiguration, match=r"there is no file .*missing\.toml; create it or drop --config"):
        load(file=tmp_path / "missing.toml", environ={}, flags={})


def test_a_home_that_is_no_directory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /dev/null, which is the home of many a service: everything else still counts."""
    home = tmp_path / "null"
    home.touch()
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *_name, **_options: home / "packlight")
    assert load(file=None, environ={"PACKLIGHT_PORT": "7"}, flags={}).config.port == 7


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A directory in place of a file is refused with the system's words."""
    with pytest.raises(BadConfiguration, match=r"cannot read .*; name another file with --config$"):
        load(file=tmp_path, environ={}, flags={})


@pytest.mark.parametrize("data", [b"port = \n", b"port = 1\nport = 2\n", b"port = " + 5000 * b"["])
def test_a_file_that_is_not_toml_is_named(file: Path, data: bytes) -> None:
    """Syntax errors are refused, with the file's name."""
    file.write_bytes(data)
    with pytest.raises(BadConfiguration, match=r"config\.toml is not valid TOML: .*; mend it, or name another "):
        load(file=file, environ={}, flags={})


@pytest.mark.parametrize("data", [b"host = '\xff'\n", b"\xff\xfe\x00"])
def test_a_file_in_another_encoding_is_named(file: Path, data: bytes) -> None:
    """What to do about it is said, in no codec's words."""
    file.write_bytes(data)
    with pytest.raises(
        BadConfiguration, match=r"config\.toml is not in UTF-8: save it as UTF-8, or name another "
    ):
        load(file=file, environ={}, flags={})


def test_a_user_without_a_home_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, or under a service manager: everything else still counts."""

    def homeless(*_name: object, **_options: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_config_path", homeless)
    assert default_file() is None
    assert load(file=None, environ={"PACKLIGHT_PORT": "7"}, flags={}).config.port == 7


def test_a_byte_order_mark_does_no_harm(file: Path) -> None:
    """Files from Windows editors begin with one."""
    file.write_bytes(b"\xef\xbb\xbfport = 5\n")
    assert load(file=file, environ={}, flags={}).config.port == 5


def test_a_path_may_begin_at_home(file: Path) -> None:
    """No shell reads the file, and who writes `~` in it means what a shell does."""
    assert loaded(file, 'ca_bundle = "~/ca.pem"').config.ca_bundle == str(Path.home() / "ca.pem")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_what_powershell_redirects_is_read(file: Path, encoding: str) -> None:
    """`packlight config --example > config.toml` makes UTF-16 in Windows PowerShell, with a byte order mark."""
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    file.write_bytes(mark + 'port = 1\r\nhost = "127.0.0.2"\r\n'.encode(encoding))
    config = load(file=file, environ={}, flags={}).config
    assert (config.port, config.host) == (1, "127.0.0.2")


def test_unknown_keys_are_refused_with_the_nearest_known_one(file: Path) -> None:
    """A typing mistake is named, with its place and what was probably meant."""
    assert refusal(file, "[packlight]\nport = 1") == (
        f"'packlight' (file {file}) is not a setting: settings stand at the top of the file, in no [table]"
    )
    assert refusal(file, "prot = 1") == f"'prot' (file {file}) is not a setting; did you mean port?"
    assert (
        refusal(file, environ={"PACKLIGHT_MAX_CONECTIONS": "1"})
        == "environment PACKLIGHT_MAX_CONECTIONS is not a setting; did you mean max_connections?"
    )
    assert refusal(file, qqqq=1) == "flag --qqqq is not a setting; `packlight config` lists them all"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "localhost", "localhost"),
        ("host", "[::1]", "::1"),
        ("port", "0", 0),
        ("port", " 65535 ", 65535),
        ("idle_seconds", "12", 12.0),
        ("idle_seconds", "1e2", 100.0),
        ("drain_seconds", "0", 0.0),
        ("turns_kept", "0", 0),
        ("log_level", "debug", "debug"),
        ("log_level", "WARNING", "warning"),
        ("allow_remote", "TRUE", True),
        ("allow_remote", "0", False),
        ("allowed_hosts", "a.example, b.example,", ("a.example", "b.example")),
        ("allowed_hosts", "", ()),
        ("allowed_origins", "vscode-webview://abc", ("vscode-webview://abc",)),
        ("upstream", "simulated", "simulated"),
        ("upstream", "http://127.0.0.1:9000/v1/", "http://127.0.0.1:9000/v1"),
        ("upstream", "https://[::1]:9000/openai/v1//", "https://[::1]:9000/openai/v1"),
    ],
)
def test_environment_values_are_read_as_their_type(file: Path, name: str, text: str, value: Any) -> None:
    """Each type has its spelling in the environment."""
    result = getattr(loaded(file, environ={f"PACKLIGHT_{name.upper()}": text}).config, name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port = -1", "must be a whole number of at least 0 and at most 65535, not -1"),
        ("port = 65536", "must be a whole number of at least 0 and at most 65535, not 65536"),
        ("port = true", "must be a whole number of at least 0 and at most 65535, not True"),
        ("port = 80.0", "must be a whole number of at least 0 and at most 65535, not 80.0"),
        ('port = "80"', "must be a whole number of at least 0 and at most 65535, not '80'"),
        ("max_connections = 0", "must be a whole number above 0, not 0"),
        ("idle_seconds = 0", "must be a number above 0, not 0"),
        ("idle_seconds = nan", "must be a number above 0, not nan"),
        ("idle_seconds = inf", "must be a number above 0 and at most 1e+15, not inf"),
        ("drain_seconds = -0.5", "must be a number of at least 0, not -0.5"),
        (f"port = {10**60}", f"must be a whole number of at least 0 and at most 65535, not {'1' + 39 * '0'}..."),
        ('log_format = "xml"', "must be console or json, not 'xml'"),
        ("log_level = 10", "must be debug or info or warning or error, not 10"),
        ('websocket = ["auto"]', "must be auto or off, not ['auto']"),
        ("allow_remote = 1", "must be true or false, not 1"),
        ("host = 127", "must be text in quotes, not 127"),
        ('host = ""', "must not be empty or contain spaces or control characters"),
        ('host = "a b"', "must not be empty or contain spaces or control characters"),
        ('host = "a\\u001b"', "must not be empty or contain spaces or control characters"),
        (
            'host = "127.0.0.1:8484"',
            'must be an address alone, such as "127.0.0.1"; the port goes to "port"',
        ),
        ('host = "http://localhost"', 'must be an address alone, such as "127.0.0.1"; the port goes to "port"'),
        ('allowed_hosts = "a"', 'must be a list such as ["a", "b"], not \'a\''),
        ("allowed_hosts = [1]", "must be text in quotes, not 1"),
        (
            'allowed_hosts = ["http://a"]',
            HOSTS,
        ),
        (
            'allowed_hosts = ["a:80"]',
            HOSTS,
        ),
        (
            'allowed_hosts = ["*"]',
            HOSTS,
        ),
        ('allowed_origins = ["a"]', ORIGINS),
        (
            'allowed_origins = ["http://a/"]',
            ORIGINS,
        ),
        (
            'allowed_origins = ["http://a/b"]',
            ORIGINS,
        ),
        (
            'allowed_origins = ["http://*.a"]',
            ORIGINS,
        ),
        ("port = 0x" + 5000 * "f", "must be a whole number of at least 0 and at most 65535, not that"),
        ('volatile_headers = ["x:y"]', 'must be names of headers alone, such as "x-trace-id"'),
    ],
)
def test_wrong_values_are_refused_with_key_place_and_fix(file: Path, line: str, message: str) -> None:
    """The message has the key, the value's place, and what would be right."""
    name = line.partition(" ")[0].partition(".")[0]
    assert refusal(file, line) == f"{name} (file {file}) {message}"


def test_tables_within_one_another_are_refused(file: Path) -> None:
    """Python 3.13 can show what is too deep for those before it."""
    said = refusal(file, "upstream" + 2000 * ".a" + " = 1")
    assert said.startswith(f"upstream (file {file}) must be text in quotes, not ")
    assert len(said) < 150 + len(str(file))


def test_a_number_that_is_none_is_refused_by_its_variable(file: Path) -> None:
    """What the environment gives is a text; the message shows it as one."""
    assert refusal(file, environ={"PACKLIGHT_PORT": "eighty"}) == (
        "port (environment PACKLIGHT_PORT) must be a whole number of at least 0 and at most 65535, not 'eighty'"
    )
    assert "must be true or false, not 'maybe'" in refusal(file, environ={"PACKLIGHT_ALLOW_REMOTE": "maybe"})


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("api.openai.com/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("ftp://api.openai.com/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("wss://api.openai.com/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("https:///v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("https://example.org:99999/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("https://example.org:0/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("https://[::1/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("http://[::1]x/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("http://localhost\\v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        (f"http://{'é' * 64}/v1", "with http:// or https://, a host, and a port from 1 to 65535 if any"),
        ("http://192.168.1:9000/v1", "with a name, or an address of four numbers"),
        ("https://me:hunter2@example.org/v1", "without a user name or password: the agent's own key is passed on"),
        ("https://hunter2@example.org/v1", "without a user name or password: the agent's own key is passed on"),
        ("https://example.org/v1?key=hunter2", "without a query (?) or fragment (#)"),
        ("https://example.org/v1#hunter2", "without a query (?) or fragment (#)"),
        ("https://example.org/v1/responses", "the API base, without /responses"),
        ("https://example.org/v1/chat/completions", "the API base, without /chat/completions"),
    ],
)
def test_upstream_is_an_api_base_and_nothing_else(file: Path, url: str, fix: str) -> None:
    """Anything else is refused with the fix, and a password in it is never repeated."""
    message = refusal(file, upstream=url)
    assert message.startswith('upstream (flag --upstream) must be "simulated" or a URL such as')
    assert message.endswith(fix)
    assert "hunter2" not in message


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "myhost.example"])  # noqa: S104
def test_a_host_that_others_can_reach_needs_permission(file: Path, host: str) -> None:
    """Listening beyond this machine takes allow_remote."""
    message = refusal(file, host=host)
    assert message.startswith(f"host (flag --host) is {host!r}, which other machines can reach: use 127.0.0.1")
    assert "--allow-remote" in message
    assert loaded(file, "allow_remote = true", host=host).config.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_none(file: Path, host: str) -> None:
    """Every spelling of this machine is fine."""
    assert is_loopback(host)
    assert loaded(file, host=host).config.host == host


def test_an_upstream_in_capitals_is_spoken_to_in_the_same_way(file: Path) -> None:
    """Scheme and host mean the same in any case: what is safe must not depend on it."""
    loaded = load(file=file, environ={"PACKLIGHT_UPSTREAM": "HTTPS://API.Example.test/V1/"}, flags={})
    assert loaded.config.upstream == "https://api.example.test/V1"


@pytest.mark.parametrize(
    ("upstream", "port"),
    [("http://localhost:8484/v1", 8484), ("http://127.0.0.1/v1", 80), ("https://localhost/v1", 443)],
)
def test_packlight_is_not_its_own_upstream(file: Path, upstream: str, port: int) -> None:
    """A loop is refused where it can be seen, also at the port that a URL leaves out."""
    message = refusal(file, upstream=upstream, port=port)
    assert message.startswith("upstream (flag --upstream) is packlight's own address")


@pytest.mark.parametrize(
    ("host", "upstream"),
    [
        ("::1", "[::1]"),
        ("::1", "localhost"),
        ("localhost", "127.0.0.1"),
        ("LOCALHOST", "[::1]"),
        ("127.0.0.1", "LOCALHOST."),
        ("127.0.0.1", "api.localhost"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("127.0.0.1", "0.0.0.0"),  # noqa: S104
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("0.0.0.0", "127.8.9.1"),  # noqa: S104
        ("0.0.0.0", "localhost"),  # noqa: S104
        ("::", "[::1]"),
        ("::", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("MyHost.example", "myhost.example"),
    ],
)
def test_its_own_address_is_known_in_every_spelling(file: Path, host: str, upstream: str) -> None:
    """Localhost is both loopback addresses, and who listens on every address does so on those."""
    message = refusal(file, "allow_remote = true", host=host, upstream=f"http://{upstream}:8484/v1")
    assert message.startswith("upstream (flag --upstream) is packlight's own address")


@pytest.mark.parametrize(
    ("host", "upstream"),
    [
        ("::1", "127.0.0.1"),
        ("127.0.0.1", "[::1]"),
        ("127.0.0.1", "127.0.0.2"),
        ("::", "127.0.0.1"),
        ("0.0.0.0", "[::1]"),  # noqa: S104
        ("0.0.0.0", "192.0.2.1"),  # noqa: S104
        ("myhost.example", "other.example"),
    ],
)
def test_another_address_may_be_upstream(file: Path, host: str, upstream: str) -> None:
    """The same port of it is another server's."""
    config = loaded(file, "allow_remote = true", host=host, upstream=f"http://{upstream}:8484/v1").config
    assert (config.host, config.port) == (host, 8484)


def test_another_port_of_this_machine_may_be_upstream(file: Path) -> None:
    """Other proxies, and servers of models, are there."""
    assert loaded(file, upstream="http://localhost:8484/v1", port=8485).config.port == 8485


def test_the_example_is_what_the_code_says(file: Path) -> None:
    """The file in the repository is the one that `packlight config --example` prints."""
    assert (ROOT / "config.example.toml").read_text(encoding="utf-8") == example()
    assert loaded(file, example()).config == Config()


def test_the_example_loads_with_every_setting_switched_on(file: Path) -> None:
    """Each default, uncommented, is read back as itself."""
    active = "\n".join(
        line.removeprefix("#") if " = " in line and not line.startswith("# ") else line
        for line in example().splitlines()
    )
    result = loaded(file, active)
    assert result.config == Config()
    assert set(result.sources.values()) == {f"file {file}"}


def test_values_are_written_as_toml(file: Path) -> None:
    """What `packlight config` prints can be pasted into a file."""
    assert [toml(value) for value in (True, 8484, 1_000_000, 2.5, 'a"b', ("x", "y"), ())] == [
        "true",
        "8484",
        "1_000_000",
        "2.5",
        '"a\\"b"',
        '["x", "y"]',
        "[]",
    ]


def test_every_setting_has_a_meaning() -> None:
    """Each has a default and a doc line of at least a few words."""
    assert all(len(doc.split()) > 2 for doc in DOCS.values())
    assert set(DEFAULTS) == set(DOCS)
