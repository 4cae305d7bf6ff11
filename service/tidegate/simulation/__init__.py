"""Simulated rollouts: how often a judge turns back a good release, and how soon a bad one (docs/simulation.md)."""
