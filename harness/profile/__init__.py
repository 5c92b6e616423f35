"""What a device profile and a data sheet say: device step times, peak FLOPs, utilization."""
