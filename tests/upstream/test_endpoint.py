"""Where upstream is: URLs that keep what the agent asked for."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from proxy.upstream.endpoint import Endpoint, system_authorities


@pytest.mark.parametrize(
    ("base", "websocket"),
    [
        ("https://api.openai.com/v1", "wss://api.openai.com/v1/responses"),
        ("http://127.0.0.1:9000/v1", "ws://127.0.0.1:9000/v1/responses"),
        ("https://chatgpt.com/backend-api/codex", "wss://chatgpt.com/backend-api/codex/responses"),
        ("http://[::1]:9000", "ws://[::1]:9000/responses"),
    ],
)
def test_the_websocket_is_beside_the_api(base: str, websocket: str) -> None:
    """The same base with ws or wss, and /responses."""
    assert Endpoint(base).websocket() == websocket
    assert Endpoint(base).websocket("api-version=2&x=%2F") == f"{websocket}?api-version=2&x=%2F"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/models",
        "//models",
        "/a/../b",
        "/a%2Fb",
        "/%zz",
        "/%7E~",
        "/a+b%20c",
        "/@evil.example",
        "/a:b",
        "/x?a=/../b",
    ],
)
def test_a_path_is_kept_to_the_byte(path: str) -> None:
    """What is appended to the base is neither decoded nor tidied up, and never changes the host."""
    url = Endpoint("https://api.openai.com/v1").http(path)
    assert str(url) == f"https://api.openai.com/v1{path}"
    assert url.raw_path_qs == f"/v1{path}"
    assert (url.host, url.user) == ("api.openai.com", None)


@pytest.mark.parametrize(
    ("base", "loopback"),
    [
        ("http://127.0.0.1:9000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://[::1]:9000/v1", True),
        ("http://localhost/v1", True),
        ("http://LOCALHOST/v1", True),
        ("http://models.localhost/v1", True),
        ("http://192.168.1.5/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("https://api.openai.com/v1", False),
    ],
)
def test_knows_this_machine(base: str, loopback: bool) -> None:  # noqa: FBT001
    """Only what surely is this machine is asked without the environment's proxy."""
    assert Endpoint(base).is_loopback is loopback


def test_tls_verifies_by_default() -> None:
    """Without an authority of the user's own, certificates and host names are checked against the system's."""
    endpoint = Endpoint("https://api.openai.com/v1")
    assert endpoint.secure
    assert endpoint.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert endpoint.ssl_context.check_hostname
    assert endpoint.ssl_context is endpoint.ssl_context


def test_every_version_of_python_takes_the_same_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.13 on it refuses authorities without key identifiers by default, as agents do not."""
    strict = ssl.create_default_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(ssl, "create_default_context", lambda: strict)
    assert not Endpoint("https://api.openai.com/v1").ssl_context.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_python_without_authorities_takes_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of python.org for macOS looks at a file that is not there; one that the user names is not replaced."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    place = tmp_path / "cert.pem"
    place.touch()
    places = [str(tmp_path / "missing.pem"), str(place)]
    not_there: dict[str, Any] = {"cafile": None, "capath": None}
    nothing = ssl.get_default_verify_paths()._replace(**not_there)
    assert system_authorities(nothing, places) == str(place)
    assert system_authorities(nothing, places[:1]) is None
    assert system_authorities(nothing._replace(capath="/etc/ssl/certs"), places) is None
    monkeypatch.setenv("SSL_CERT_FILE", "/mistyped.pem")
    assert system_authorities(nothing, places) is None


def test_tls_with_an_own_authority() -> None:
    """The context that is given is used for both transports."""
    context = ssl.create_default_context()
    assert Endpoint("https://x/v1", context).ssl_context is context
    assert not Endpoint("http://x/v1", context).secure
