"""What happens to every request: one file each, put together in ``web/routes.py``."""
