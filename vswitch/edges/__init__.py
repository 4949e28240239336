"""What sits between a port and whoever watches or bends what passes: captures."""
