"""Reads the configuration of an adopted nginx, as `nginx -T` prints it: its upstreams, and where requests go. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

FILE = re.compile(r"# configuration file (.+):")
TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*) | (?P<mark>[{};]) | "(?P<double>(?:\\.|[^"\\])*)" | '(?P<single>(?:\\.|[^'\\])*)'
    | (?P<word>(?:\\.|\$\{[^}]*\}|[^\s{};"'\#\\])(?:\\.|\$\{[^}]*\}|[^\s{};\\])*)""",
    re.X | re.S,
)
PROXY_TARGET = re.compile(r"https?://([^/:]+|\$\w+)")
#: Directives that choose a server of an upstream; those of nginx Plus and of common modules included.
BALANCING = ("ip_hash", "hash", "least_conn", "random", "least_time", "sticky", "fair", "sticky_cookie_insert")
ROUND_ROBIN = "round_robin"
SUPPORTED_BALANCING = re.compile(
    r"round_robin|ip_hash|least_conn|random( two( least_conn)?)?|hash [A-Za-z0-9_$.:-]+( consistent)?"
)


@dataclass(frozen=True)
class Upstream:
    """An upstream of theirs. `balancing`: its directive, such as `ip_hash`; empty for round robin."""

    name: str
    directives: tuple[tuple[str, ...], ...]

    @property
    def balancing(self) -> str:
        """The directive that chooses a server; empty for round robin."""
        return next((" ".join(words) for words in self.directives if words[0] in BALANCING), "")

    @property
    def description(self) -> str:
        """Its servers, and all that an upstream of Tidegate does not have."""
        servers = [words[1:] for words in self.directives if words[0] == "server"]
        special = sorted({word for words in servers for word in words[1:]})
        others = [" ".join(words) for words in self.directives if words[0] not in ("server", *BALANCING)]
        parts = [f"{len(servers)} server{'s' * (len(servers) != 1)} of its own", self.balancing or ROUND_ROBIN]
        if not_kept := [*special, *others]:
            parts.append(f"Tidegate's upstream will not have: {', '.join(not_kept)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class TheirConfig:
    """`statements`: every directive outside Tidegate's file, as words, with the upstream that it belongs to or ""."""

    statements: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """Their upstreams, in the order of the file."""
        names = [words[1] for _, words in self.statements if words[0] == "upstream" and len(words) > 1]
        inner = {name: tuple(words for block, words in self.statements if block == name) for name in names}
        return tuple(Upstream(name, directives) for name, directives in inner.items())

    def upstreams_balancing(self) -> str:
        """The first balancing of theirs that an upstream of Tidegate can have, too; round robin if there is none."""
        found = (upstream.balancing for upstream in self.upstreams)
        return next((text for text in found if SUPPORTED_BALANCING.fullmatch(text)), ROUND_ROBIN)

    @property
    def targets(self) -> frozenset[str]:
        """Hosts, upstreams and variables to which a `proxy_pass` leads."""
        matches = (PROXY_TARGET.match(words[0]) for words in self.values("proxy_pass") if words)
        return frozenset(match[1] for match in matches if match)

    def values(self, directive: str) -> list[tuple[str, ...]]:
        """The values of a directive, wherever it is."""
        return [words[1:] for _, words in self.statements if words[0] == directive and len(words) > 1]


def parse_config(text: str, left_out: Collection[str]) -> TheirConfig:
    """The configuration without the files `left_out`."""
    return TheirConfig(tuple(_statements(text, left_out)))


def _statements(text: str, left_out: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    file, words, blocks = "", list[str](), list[str]()
    for token in TOKEN.finditer(text):
        if token["comment"]:
            if (match := FILE.fullmatch(token["comment"])) and not blocks:
                file = match[1]
        elif token["mark"] is None:
            words.append(next(value for value in (token["double"], token["single"], token["word"]) if value is not None))
        else:
            if words and file not in left_out:
                yield next((name for name in reversed(blocks) if name), ""), tuple(words)
            if token["mark"] == "{":
                blocks.append(words[1] if words[:1] == ["upstream"] and len(words) > 1 else "")
            elif token["mark"] == "}" and blocks:
                blocks.pop()
            words = []
