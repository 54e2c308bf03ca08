"""Shell 2: Kubernetes. Watches what is, asks the planner what should be, and writes the difference."""
