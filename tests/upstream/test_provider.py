"""Whose rules upstream follows."""

from typing import Any

import pytest

from proxy.upstream.provider import PROVIDERS, Provider, provider


@pytest.mark.parametrize(
    ("name", "host", "expected"),
    [
        ("auto", "api.openai.com", "openai"),
        ("auto", "api.x.ai", "xai"),
        ("auto", "eu-west-1.api.x.ai", "xai"),
        ("auto", "x.ai", "xai"),
        ("auto", "eu.api.openai.com", "openai"),
        ("auto", "chatgpt.com", "openai"),
        ("auto", "name.openai.azure.com", "azure"),
        ("auto", "name.services.ai.azure.com", "azure"),
        ("auto", "name.cognitiveservices.azure.com", "azure"),
        ("auto", "name.azure.com", None),
        ("auto", "api.netx.ai", None),
        ("auto", "x.ai.example.com", None),
        ("auto", "127.0.0.1", None),
        ("auto", "", None),
        ("xai", "gateway.example.com", "xai"),
        ("openai", "api.x.ai", "openai"),
    ],
)
def test_it_is_named_or_known_by_its_host(name: Any, host: str, expected: Any) -> None:
    """A name that only looks like it is somebody else's, whom nobody knows."""
    assert provider(name, host) == (PROVIDERS[expected] if expected is not None else Provider())
