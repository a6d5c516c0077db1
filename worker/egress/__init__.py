"""The worker's side of egress, through which its agents reach models."""
