"""Handlers by subject: what a request asks for, said to the service, and its answer's form."""
