"""LeRobotDataset v3.0: `convert` writes it from episodes and makes episodes of it. See layout.py for the format."""
