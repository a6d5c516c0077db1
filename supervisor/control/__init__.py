"""The control plane: HTTP requests of operators, authorised, routed and answered."""
