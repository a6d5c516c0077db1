"""The model providers; each module here has one as `PROVIDER`."""
