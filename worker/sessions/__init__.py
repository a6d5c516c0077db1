"""Conversations: what was said, and the turns that answer."""
