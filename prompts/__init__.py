"""What can be said: domain objects, the pattern catalogue, assembly, parsing, refinement guards."""
