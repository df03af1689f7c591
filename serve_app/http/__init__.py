"""HTTP: routes, requests, problems, the OpenAPI document."""
