"""Serving an exported policy from this machine: TensorFlow Serving's REST and gRPC protocols over one loaded model."""
