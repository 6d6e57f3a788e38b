"""What counts as a secret in words that are kept, what does not, and that hostile text costs no more than any other."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.traces.redaction import redacted, secrets_in

KNOWN = {"OPENAI_API_KEY": "sk-very-private-1b4fJ9qLw2Zx7V", "SHORT": "abc"}
# Put together here, so that no scanner takes this file for a leak.
GITHUB, AWS = "ghp_" + "A1b2C3d4E5f6G7h8", "AKIA" + "ABCDEFGHIJKLMNOP"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text, left",
    [
        (f"key {KNOWN['OPENAI_API_KEY']}.", "key ‹redacted: OPENAI_API_KEY›."),
        ("use sk-abcdefgh12345678 here", "use ‹redacted: API key› here"),
        ("AIza" + "x" * 35, "‹redacted: API key›"),
        (AWS, "‹redacted: AWS key›"),
        (f"x={GITHUB}", "x=‹redacted: GitHub token›"),
        ("glpat-" + "a" * 20, "‹redacted: GitLab token›"),
        ("xoxb-1234567890-abc", "‹redacted: Slack token›"),
        ("sk_live_" + "a1" * 12, "‹redacted: Stripe key›"),
        ("hf_" + "a1" * 17, "‹redacted: Hugging Face token›"),
        ("npm_" + "a1" * 18, "‹redacted: registry token›"),
        ("SG." + "a" * 22 + "." + "b" * 43, "‹redacted: SendGrid key›"),
        (f"cookie: {JWT};", "cookie: ‹redacted: JWT›;"),
        (f"a\n{PEM}\nb", "a\n‹redacted: private key›\nb"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ‹redacted: bearer token›"),
        ("password=hunter2", "password=‹redacted: password›"),
        ("DB_PASSWORD=abc123def\nNEXT=1", "DB_PASSWORD=‹redacted: password›\nNEXT=1"),
        ('PASSWORD: "correct horse"', 'PASSWORD: "‹redacted: password›"'),
        ('{"client_secret": "a1b2c3"}', '{"client_secret": "‹redacted: password›"}'),
        ("url?pwd=hunter22&next=1", "url?pwd=‹redacted: password›&next=1"),
        ("postgres://me:pa55w@db/x", "postgres://me:‹redacted: password›@db/x"),
    ],
)
def test_a_secret_is_replaced_by_what_kind_it_was(text: str, left: str) -> None:
    assert redacted(text, KNOWN) == type(redacted("", {}))(left, 1)


@pytest.mark.parametrize(
    "text",
    [
        "password=self.password",
        "password = os.environ['DB_PASSWORD']",
        "def login(password: str = '') -> None:",
        "api_key=API_KEY, secret='secret'",
        "pwd=$(pwd)",
        "passwd = get_password(user)",
        "token_count = 12345678",
        "https://example.org/a:b?c=d@e",
        "the skill and the asking, risk-averse",
        "abc",
    ],
)
def test_code_that_speaks_of_secrets_stays_as_it_is(text: str) -> None:
    assert redacted(text, KNOWN) == type(redacted("", {}))(text, 0)


def test_every_place_is_counted() -> None:
    assert redacted(f"{GITHUB} {GITHUB} {KNOWN['OPENAI_API_KEY']} password=hunter2", KNOWN).count == 4


def test_of_two_known_secrets_the_longer_is_found_first() -> None:
    assert redacted("secret-one-more", {"A": "secret-one", "B": "secret-one-more"}).text == "‹redacted: B›"


def test_an_environment_names_its_secrets() -> None:
    environ = {"GH_TOKEN": "a1", "MY_API_KEY": "b2", "PATH": "/bin", "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key"}
    assert secrets_in(environ) == {"GH_TOKEN": "a1", "MY_API_KEY": "b2"}


@given(st.text(), st.text(min_size=6))
def test_no_known_secret_is_left_in_any_text(text: str, secret: str) -> None:
    found = redacted(f"{text}{secret}{text}", {"OURS": secret})
    assert secret not in found.text.replace("‹redacted: OURS›", "") or secret in "‹redacted: OURS›"


@pytest.mark.parametrize(
    "piece", ["eyJ-", "password=", "password='", "://a:", "SG.", "Bearer ", "-----BEGIN PRIVATE KEY-----", "sk-"]
)
def test_a_text_made_to_be_slow_takes_as_long_as_any_other(piece: str) -> None:
    # Were one of the shapes quadratic, 200 KB would take minutes; they take 30 ms.
    started = time.process_time()
    redacted(piece * (200_000 // len(piece)), KNOWN)
    assert time.process_time() - started < 5
