"""The statistics of the analysis: anytime-valid evidence that a candidate is worse than its baseline. Pure.

All arrays have a leading axis of replicates, R: one in the engine, many in a simulation, so that the simulation runs the
code that decides. docs/analysis.md has the design, its sources and its measured error rates.
"""
