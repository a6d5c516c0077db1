"""OpenAI's API: its requests into ours, our answers into its."""
