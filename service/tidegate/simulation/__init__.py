"""Simulated rollouts: how often a method rolls back a good release, and how soon a bad one (docs/simulation.md)."""
