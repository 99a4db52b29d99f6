"""Backbones: frames and an instruction in, states at the action queries out. One file per family."""
