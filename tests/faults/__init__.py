"""Fault injection: kill, freeze, corrupt, fill and cut, then prove that nothing was lost.

``python -m tests.faults --help`` lists the commands; ``tests/faults/test_faults.py`` runs a seeded
subset.
"""
