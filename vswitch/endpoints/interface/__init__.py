"""An interface of this machine, as tap:// has it: what is asked of it, how it is set up, and programs that help."""
