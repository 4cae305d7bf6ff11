"""Queries that are confined to the series of one service: whatever could read others is found."""

from __future__ import annotations

import pytest

from tidegate.analysis.promql import find_unconfined

SHOP = {"service": "shop"}


@pytest.mark.parametrize(
    "query",
    [
        'up{service="shop"}',
        "up{service='shop'}",
        'sum by (instance, job) (rate(requests_total{service="shop", code=~"5.."}[5m]))',
        'sum(rate(a{service="shop"}[5m])) without (x) / on (job) group_left (y) sum(b{code!="1",service="shop",})',
        'histogram_quantile(0.99, sum by (le) (rate(d_bucket{ service = "shop" }[1h30m:10s] offset 5m @ end())))',
        '{__name__="a", service="shop"} > bool 1e3 or vector(Inf) # up is a comment',
        "time() - 1",
        'label_replace(up{service="shop"}, "x", "$1", "y", "{other}")',
    ],
)
def test_what_reads_one_service(query: str) -> None:
    assert find_unconfined(query, SHOP) == ""


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("up", "the selector up has no matchers"),
        ('sum(secret) + sum(a{service="shop"})', "the selector secret"),
        ("secret[5m]", "the selector secret"),
        ("{}", 'lacks service="shop"'),
        ('up{service="other"}', 'lacks service="shop"'),
        ('up{service=~"shop"}', 'lacks service="shop"'),
        ('up{service!="shop"}', 'lacks service="shop"'),
        ('up{x="service=\\"shop\\""}', 'lacks service="shop"'),
        ('up{xservice="shop"}', 'lacks service="shop"'),
        ('up{service="shop" or job="other"}', "lacks a plain list of matchers"),
        ('up{service="shop"} or up # {service="shop"}', "the selector up has no matchers"),
        ('up{ # service="shop"\n}', 'lacks service="shop"'),
        ('up{service="shop"', ""),
        ('{"up", job="a"}', 'lacks service="shop"'),
        ("WITH (x = 1) x", "the selector x"),
        ('a{service="shop"} $ b', "cannot be examined"),
        ('"unended', "cannot be examined"),
        ("rate(a:b:c[5m])", "the selector a:b:c"),
    ],
)
def test_what_could_read_others(query: str, said: str) -> None:
    assert said in find_unconfined(query, SHOP)
