"""The evaluation room: what a policy can do, how sure that is, and whether it listens and looks."""
