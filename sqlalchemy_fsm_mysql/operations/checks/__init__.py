"""The checks of the doctor, each a generator of findings."""
