"""The OpenAPI description of the API, made from the configuration."""
