"""How slices are cut, planned and what they cost, against bars; all of it replayable."""
