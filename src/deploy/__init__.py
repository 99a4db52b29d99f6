"""The deployment room: a trained policy as an object that takes frames and gives commands."""
