"""Opens the adapter that models.yaml asks for.

It owns the choice and the check that a key is there; it reads no environment and loads no SDK. ``app`` and
``llm_service`` call it once per provider and close what they get.
"""

from __future__ import annotations

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import MissingKey
from autopack_mcp.providers.anthropic import AnthropicProvider
from autopack_mcp.providers.base import Provider
from autopack_mcp.providers.openai import OpenAIProvider


def open_provider(settings: ProviderSettings, api_key: str | None, *, clock: Clock | None = None) -> Provider:
    """The adapter for one provider; its SDK is imported at the first call, not here.

    Raises:
        MissingKey: the settings name a key variable and there is no key.
    """
    if settings.api_key_env is not None and not api_key:
        raise MissingKey(settings.provider, settings.api_key_env)
    if settings.sdk == "anthropic":
        return AnthropicProvider(settings, api_key, clock=clock)
    return OpenAIProvider(settings, api_key, clock=clock)
