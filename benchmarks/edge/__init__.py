"""What the edge agent must hold under faults and load, measured beside its bars."""
