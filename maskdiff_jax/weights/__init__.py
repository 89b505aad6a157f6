"""Weights of networks in files: this project's own and the standard folders of other tools, in and out."""
