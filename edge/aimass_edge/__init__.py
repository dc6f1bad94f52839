"""The agent on the device: telemetry in, predictions out, with or without the cloud."""
