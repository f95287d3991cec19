"""Trainings beside the service."""
