"""Tidegate moves a service from one release to the next without downtime."""

__version__ = "0.1.0"
