"""The sources' claims, each one an experiment with seeds, intervals and controls."""
