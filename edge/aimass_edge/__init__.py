"""The agent on the device: telemetry in, predictions out, with or without the cloud."""

import os

# ONNX Runtime's wheels (seen in 1.32) keep a session and report to Microsoft unless this is set
# before it is imported (its Privacy.md). A plant's device calls nobody but its coordinator.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
