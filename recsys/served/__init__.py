"""Networks as they answer requests: run by ONNX Runtime, between compiled loops."""
