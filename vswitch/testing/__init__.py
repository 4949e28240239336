"""What tests of things that need a network are built from; so far, the tiny guest's image."""
