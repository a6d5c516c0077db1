"""The providers' APIs, one module for each."""
