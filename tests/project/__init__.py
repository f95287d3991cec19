"""Tests of the whole project: structure, documentation, deployment."""
