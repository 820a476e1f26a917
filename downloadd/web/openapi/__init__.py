"""The contract as OpenAPI 3.1 (``/openapi.json``), from the schemas and tables that serve it."""
