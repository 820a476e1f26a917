"""Object storage: two implementations of ``ports.ObjectStore``.

``s3.open_s3_store`` and ``local.open_local_store`` are the doors; importing
one does not import the other.
"""
