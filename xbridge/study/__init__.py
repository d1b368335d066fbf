"""From one YAML to a report: the plan (a graph of stages), its run, and its state."""
