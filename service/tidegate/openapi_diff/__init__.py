"""What one release's clients may count on, held against what the next one serves: two OpenAPI documents compared. Pure.

`compare` gives the changes; `values.concluded` makes one outcome of them. What cannot be decided is said to be so, and is
never good: a reference that leads nowhere, a pattern that changed, branches that cannot be told apart.
"""
