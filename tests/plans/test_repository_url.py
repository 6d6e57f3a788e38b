"""Which addresses of repositories are taken; those that could make git run something, or hold a secret, are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopack_mcp.errors import PlanError
from autopack_mcp.plans.plan_file import load_plan
from autopack_mcp.plans.repository_url import is_url, url_objection

PLAN = "tiers:\n  - {id: t, phases: [{id: a, description: do it}]}\nverify: none\n"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/team/project.git",
        "https://example.org:8443/project",
        "ssh://git@example.org/team/project.git",
        "ssh://example.org:2222/project.git",
        "file:///srv/git/project.git",
        "https://[2001:db8::1]/project.git",
    ],
)
def test_an_address_that_every_machine_reaches_is_taken_as_it_is(url: str) -> None:
    assert is_url(url)
    assert url_objection(url) is None
    assert load_plan(f"repository: {url}\n{PLAN}", "plan.yaml", known_categories=set()).repository == url


@pytest.mark.parametrize("path", ["/srv/project", "../project", "project", "C:/project", "a:b"])
def test_a_path_is_not_an_address(path: str) -> None:
    assert not is_url(path)
    assert url_objection(path) is None


@pytest.mark.parametrize(
    "repository, says",
    [
        pytest.param("ext::sh -c touch% /tmp/x", "transport helper", id="a program as a transport"),
        pytest.param("fd::17", "transport helper", id="a file descriptor"),
        pytest.param("--upload-pack=touch /tmp/x", "dash", id="an option"),
        pytest.param("-ufoo://x/y", "dash", id="an option that looks like a URL"),
        pytest.param("ssh://-oProxyCommand=id/x", "no usable host", id="a host that is an option of ssh"),
        pytest.param("ssh://-l@host/x", "no usable host", id="a user that is an option of ssh"),
        pytest.param("https://ann:hunter2@example.org/x", "password or token", id="a password"),
        pytest.param("https://hunter2@example.org/x", "password or token", id="a token as the user"),
        pytest.param("ssh://git:hunter2@example.org/x", "password or token", id="a password for ssh"),
        pytest.param("file://hunter2@host/x", "password or token", id="a user of a file"),
        pytest.param("https://example.org/x?token=hunter2", "no ? or #", id="a query"),
        pytest.param("http://example.org/x", "'http' is none", id="unencrypted"),
        pytest.param("git://example.org/x", "'git' is none", id="the old protocol"),
        pytest.param("git@example.org:team/x.git", "ssh://user@host/path", id="as ssh writes it"),
        pytest.param("file://host/x", "file:///absolute/path", id="a file on a host"),
        pytest.param("https://example.org", "no path", id="no path"),
        pytest.param("https:///x", "no usable host", id="no host"),
        pytest.param("https://example.org:99999/x", "can be read", id="an impossible port"),
        pytest.param("https://example.org/a b", "blanks", id="a blank"),
        pytest.param("https://exa\tmple.org/x", "blanks", id="a tab"),
        pytest.param("https://example.org/" + "x" * 2_000, "too long", id="too long"),
    ],
)
def test_what_git_could_be_tricked_with_or_would_be_stored_is_refused(repository: str, says: str) -> None:
    objection = url_objection(repository)

    assert objection is not None
    assert says in objection
    assert "hunter2" not in objection


def test_a_refused_address_is_a_problem_of_the_plan_that_does_not_repeat_its_secret() -> None:
    text = f"repository: https://ann:hunter2@example.org/x\n{PLAN}"
    with pytest.raises(PlanError, match="password or token") as refused:
        load_plan(text, "plan.yaml", known_categories=set())

    assert refused.value.problems[0].line == 1
    assert "hunter2" not in str(refused.value)


def test_an_address_that_is_given_wins_over_the_plans_own(tmp_path: Path) -> None:
    given = "https://example.org/x.git"
    plan = load_plan(f"repository: /nowhere\n{PLAN}", "plan.yaml", known_categories=set(), repository=given)
    assert plan.repository == given

    with pytest.raises(PlanError, match="'http' is none") as refused:
        load_plan(PLAN, "plan.yaml", known_categories=set(), repository="http://example.org/x")
    assert len(refused.value.problems) == 1
