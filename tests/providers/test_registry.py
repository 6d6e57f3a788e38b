"""Which adapter models.yaml gets, and that opening it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import MissingKey
from autopack_mcp.providers.anthropic import AnthropicProvider
from autopack_mcp.providers.openai import OpenAIProvider
from autopack_mcp.providers.registry import open_provider


@pytest.mark.parametrize(
    "settings, adapter",
    [
        (ProviderSettings("openai", "openai", "chat"), OpenAIProvider),
        (ProviderSettings("glm", "openai", "responses"), OpenAIProvider),
        (ProviderSettings("anthropic", "anthropic", "messages"), AnthropicProvider),
    ],
)
def test_adapter_follows_the_sdk(settings: ProviderSettings, adapter: type) -> None:
    assert type(open_provider(settings, None)) is adapter


@pytest.mark.parametrize("key", [None, ""])
def test_missing_key_names_the_variable(key: str | None) -> None:
    with pytest.raises(MissingKey, match="GLM_API_KEY"):
        open_provider(ProviderSettings("glm", "openai", "chat", api_key_env="GLM_API_KEY"), key)


def test_opening_every_adapter_loads_no_sdk_and_no_price_list() -> None:
    program = """
import sys
from autopack_mcp.config.settings import ModelPrice, ProviderSettings
from autopack_mcp.providers import pacing, scripted
from autopack_mcp.providers.registry import open_provider
from autopack_mcp.usage.prices import PriceBook
open_provider(ProviderSettings("a", "openai", "chat"), "key")
open_provider(ProviderSettings("b", "anthropic", "messages"), "key")
PriceBook({})
print(sorted({"openai", "anthropic", "httpx2", "genai_prices", "pydantic", "mcp"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() == "[]"
