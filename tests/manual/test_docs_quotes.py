"""What the manual quotes from the server: its refusals and its messages."""

from __future__ import annotations

import ast
import re
import typing as t

import pytest

from flask_prefork.http.errors import Refused
from flask_prefork.http.head import read
from flask_prefork.http.limits import Limits

from .pages import PAGES
from .pages import ROOT

SOURCE = sorted((ROOT / "flask_prefork").rglob("*.py"))


# What is refused


class Rule(t.NamedTuple):
    status: int
    reason: str


_REFUSAL = re.compile(r"    \* - (\d{3})\n      - (.+)\n      - (.+)\n")
RULES = {
    Rule(int(status), reason): example
    for status, reason, example in _REFUSAL.findall(PAGES["docs/http.rst"])
}


def rules_of_the_code() -> set[Rule]:
    """All refusals of requests that are written in the source."""
    found = set()
    for path in (ROOT / "flask_prefork" / "http").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Refused", "BodyError")
            ):
                status, reason = node.args
                # The abortion of a request has its own words.
                if isinstance(reason, ast.Constant):
                    assert isinstance(status, ast.Constant)
                    found.add(Rule(status.value, reason.value))
    return found


def test_every_refusal_is_told() -> None:
    assert set(RULES) == rules_of_the_code()


@pytest.mark.parametrize(
    ("rule", "example"),
    [(rule, text) for rule, text in RULES.items() if "HTTP/" in text and "``" in text],
    ids=lambda value: value.reason if isinstance(value, Rule) else "",
)
def test_examples_are_refused(rule: Rule, example: str) -> None:
    data = example.strip("`").encode().replace(rb"\r", b"\r").replace(rb"\n", b"\n")
    with pytest.raises(Refused) as caught:
        read(data, Limits())
    assert (caught.value.status, caught.value.reason) == rule


# Messages


def templates() -> list[str]:
    """What the source says to people, with an ellipsis for what differs."""
    found = []
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[\d.]*[sdgfr]", "…", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
                found.append("".join(parts))
    return [" ".join(text.split()) for text in found]


TEMPLATES = templates()
MESSAGES = re.findall(
    r"^``(.+)``$", PAGES["docs/troubleshooting.rst"], re.MULTILINE
) + re.findall(r"says ``(.+?)``", PAGES["docs/troubleshooting.rst"])


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 30


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_the_servers(message: str) -> None:
    # An optional part of the sentence is one of what differs.
    plain = message.replace(" while serving …", "…")
    assert any(plain in template for template in TEMPLATES)


# Lines of the log

_LINE = re.compile(
    r"^ *\[.+?\] \[\d+\] \[[A-Z]+\] \[[a-z]+(?: \d+)*\] (.+)$", re.MULTILINE
)
LINES = {line for page in PAGES.values() for line in _LINE.findall(page)}


def test_there_are_lines_of_the_log() -> None:
    assert "Generation 2 is loading." in LINES
    assert len(LINES) > 10


def is_said(line: str) -> bool:
    """Whether the server logs such a line; ``…`` stands where it is cut."""
    # What a signal does is a text of its own.
    words = re.sub(r"^SIG[A-Z0-9]+: (.+)\.$", r"\1", line.removesuffix("…"))
    for template in TEMPLATES:
        # A template of little else than values would match everything.
        if len(re.findall("[a-z]", template)) < 6:
            continue
        parts = template.split("…")
        pattern = ".*".join(re.escape(part) for part in parts)
        is_cut = line.endswith("…") and len(parts[0]) > 6 and words.startswith(parts[0])
        if is_cut or re.fullmatch(pattern, words):
            return True
    return False


@pytest.mark.parametrize("line", sorted(LINES))
def test_lines_of_the_log_are_the_servers(line: str) -> None:
    assert is_said(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Generation 2 is loading.", True),
        ("Generation 2 is about to be loaded.", False),
        ("Serving Flask app 'shop'; debug …", True),
        ("Serving the app 'shop'; debug …", False),
    ],
)
def test_what_the_server_says_is_known(line: str, said: bool) -> None:
    assert is_said(line) is said
