"""Outbound HTTP: which addresses may be dialled, and files from other people's URLs."""
