"""Who may ask what: API keys, tokens of an identity provider, rates, limits of headers."""
