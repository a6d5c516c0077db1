"""Sandboxes, as a tenant's worker sees them."""
