"""What comes in from outside, and what is answered there."""
