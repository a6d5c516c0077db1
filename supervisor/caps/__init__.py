"""What a tenant may use at once, by the kernel's word: cgroups (v2 and v1), and its disk."""
