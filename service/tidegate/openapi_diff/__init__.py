"""Comparison of the OpenAPI documents of two releases: finds changes that break clients of the old one. Pure.

`diff.diff_documents` returns the changes; `result.conclude` turns them into one outcome. What cannot be decided has the
effect `UNKNOWN` and never passes: a dangling reference, a changed pattern, branches that match no counterpart.
"""
