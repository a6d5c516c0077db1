"""What the tenant has used, and the keys that it brings for models: asked of egress."""
