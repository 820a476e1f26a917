"""Who a caller is: API keys, JSON Web Tokens, and tokens for the events of one job (SPEC §7)."""
