"""A campaign of real faults against the real trainer: ``python -m tests.faults``."""
