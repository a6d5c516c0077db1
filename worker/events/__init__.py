"""What happens in the tenant, for those who listen."""
