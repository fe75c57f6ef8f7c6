"""What is declared on models, and what a Session adds to a fire: instances, journal, hooks, units of work."""
