"""The ports of a switch as the control side sees them: their registry, their policies, what drives and watches them."""
