"""The control plane as a client sees it: its routes, and the shapes of what goes in and out."""
