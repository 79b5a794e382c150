"""What a query in Prometheus' language names: metrics with their matchers, and the labels that it groups by."""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])
    |(?P<name>[A-Za-z_:][\w:]*)|(?P<number>\d[\w.]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])""",
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "offset", "bool"} | GROUPING
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values"}


@dataclass
class Selector:
    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    """Label, operator, value."""


@dataclass
class Named:
    selectors: list[Selector]
    grouping: set[str]

    @property
    def metrics(self) -> set[str]:
        return {selector.metric for selector in self.selectors}


def named(query: str) -> Named:
    """ValueError if it has what cannot be told; that it is a valid query is for promtool to say."""
    tokens = _tokens(query)
    found = Named([], set())
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        follows = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if text == "{":
            raise ValueError(f"a selector without a name: {query}")
        if kind != "name":
            continue
        if text in GROUPING and follows == "(":
            end = tokens.index(("sign", ")"), at)
            found.grouping |= {label for kind, label in tokens[at:end] if kind == "name"}
            at = end
        elif text not in WORDS | AGGREGATIONS and follows != "(":
            end = tokens.index(("sign", "}"), at) if follows == "{" else at
            inside = [token for _, token in tokens[at + 1 : end] if token != ","]
            matchers = [(label, operator, value[1:-1]) for label, operator, value in zip(*[iter(inside)] * 3, strict=True)]
            found.selectors.append(Selector(text, matchers))
            at = end + (follows == "{")
    return found


def _tokens(query: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(query):
        match = TOKEN.match(query, at)
        if match is None:
            raise ValueError(f"{query[at:at + 20]!r} in {query}")
        tokens.append((match.lastgroup, match.group()))
        at = match.end()
    return [token for token in tokens if token[0] != "space"]
