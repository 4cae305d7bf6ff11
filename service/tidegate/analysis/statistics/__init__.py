"""The statistics of the judge: anytime-valid evidence that a candidate is worse than its baseline. Pure.

All arrays have a leading axis of *replicates* (R): one in the engine, many in a simulation, so that what is simulated is
the code that decides. The design, its sources and its measured error rates are in docs/judge.md.
"""
