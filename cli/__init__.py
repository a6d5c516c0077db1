"""The command `openclaw`: a client of the control plane."""
