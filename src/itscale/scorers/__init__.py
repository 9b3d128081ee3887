"""Judges of paths: process and outcome scorers, answers and votes."""
