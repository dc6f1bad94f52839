"""The whole loop on one machine: coordinator, three agents, a plant; real processes, real data."""
