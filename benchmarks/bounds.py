"""How tight the bound by bytes is, and what it costs to count a prompt instead (docs/accounting.md).

It owns a few kinds of text and the conditions: OpenAI's current ranks by the extra ``tokens``; import in a fresh
interpreter, because what is loaded once seems free. Readers of that page run it; without the extra it says null.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from autopack_mcp.bounds import bounds_of
from autopack_mcp.providers.base import ChatMessage, format_tokens
from autopack_mcp.providers.counts import tokenizer
from benchmarks.machine import machine

RANKS = "o200k_base"
ROOT = Path(__file__).parent.parent
_CHINESE = "在每次调用之前，账本都会为它预留足够的令牌，因此无论有多少个进程同时运行，上限都不会被超过。"
_JAPANESE = (
    "呼び出しの前に必要なトークンを予約するので、いくつのプロセスが同時に動いていても上限を超えることはありません。"
)
_KOREAN = "호출하기 전에 필요한 토큰을 예약하므로 얼마나 많은 프로세스가 동시에 실행되더라도 한도를 넘지 않습니다."
_EMOJI = "🚀✅🧪📦🔒🪙🧾⏱️🛑👩🏽‍🚀🏳️‍🌈"
_IMPORT = "import time; t = time.perf_counter(); import bpe_openai; print((time.perf_counter() - t) * 1000)"


def texts() -> dict[str, str]:
    """Kinds of text as prompts hold them, and the worst there is."""
    return {
        "code": "".join(path.read_text("utf-8") for path in sorted(ROOT.glob("autopack_mcp/*.py"))),
        "prose": "".join(path.read_text("utf-8") for path in sorted(ROOT.glob("docs/*.md"))),
        "chinese": _CHINESE * 20,
        "japanese": _JAPANESE * 20,
        "korean": _KOREAN * 20,
        "emoji": _EMOJI * 20,
        "every character": "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])),
    }


def measure() -> dict[str, object]:
    """Tokens per byte of the bound by kind of text, and the cost of counting."""
    ranks = tokenizer(RANKS)
    found: dict[str, object] = {"import_ms": None, "count_10k_ms": None}
    if ranks is not None:
        spent = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
        code = texts()["code"]
        start = time.perf_counter()
        tokens = ranks.count(code)
        found["count_10k_ms"] = round((time.perf_counter() - start) * 1_000 * 10_000 / tokens, 2)
        found["import_ms"] = round(float(spent.stdout))
    for kind, text in texts().items():
        message = ChatMessage("user", text)
        bound = bounds_of([message], 0).input_tokens - format_tokens([message])
        found[f"tokens_per_byte, {kind}"] = None if ranks is None else round(ranks.count(text) / bound, 3)
    return {**found, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    as_json = parser.parse_args().json
    found = measure()
    print(json.dumps(found) if as_json else "\n".join(f"{name:32} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
