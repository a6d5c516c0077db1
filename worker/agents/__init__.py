"""What answers: a model that is given a conversation and may use tools."""
