"""VDE: being a vde_switch, with its console, and plugging into one."""
