"""Manifests of Kubernetes: what is generated for them, and the lint that reads them."""
